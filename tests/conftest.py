"""What tests of the fast path share: CUDA graphs without CUDA, and nothing kept from earlier compilations."""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models import build_network
from utils.blueprint import Blueprint
from utils.fast_path import Graphed


class Recording(TorchDispatchMode):
    """Notes every operation that makes or changes a tensor, with the very tensors it was given, as a capture does."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        options = options or {}
        if operation is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        outputs = operation(*arguments, **options)
        given = {memory_of(tensor) for tensor in tensors_of((arguments, options))}
        # Views of what was given are there already.
        made = [tensor if memory_of(tensor) not in given else None for tensor in tensors_of(outputs)]
        if operation._schema.is_mutable or any(tensor is not None for tensor in made):
            self.operations.append((operation, arguments, options, made))
        return outputs


def tensors_of(nested) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(nested) if isinstance(leaf, torch.Tensor)]


def memory_of(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class ReplayedGraph:
    """In the place of a CUDA graph: the recorded operations again, on the same tensors. What Python decided between
    them, and any number that it put in, stays as it was at the capture."""

    operations: list

    @torch.no_grad()
    def replay(self):
        for operation, arguments, options, made in self.operations:
            for kept, new in zip(made, tensors_of(operation(*arguments, **options)), strict=True):
                if kept is not None:
                    kept.detach().copy_(new)


@pytest.fixture
def replayed_graphs(monkeypatch):
    """Graphed on the CPU: a capture records the step and takes back what it did; returns the graphs that were made."""
    graphs = []

    @contextmanager
    def capture(graph, capture_error_mode):
        (graphed,) = [made for made in captured if made.graph is None]
        with graphed.keeping(), Recording() as recording:
            yield
        graph.operations = recording.operations
        graphs.append(graph)

    captured, original = [], Graphed._capture

    def remember_and_capture(graphed, arguments):
        captured.append(graphed)
        original(graphed, arguments)

    class Stream:
        def wait_stream(self, other):
            pass

    monkeypatch.setattr(Graphed, "_capture", remember_and_capture)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", ReplayedGraph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    return graphs


@pytest.fixture
def nothing_compiled():
    torch._dynamo.reset()


@pytest.fixture
def full_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def no_code_generated(nothing_compiled, monkeypatch):
    """torch.compile makes its graphs, with their autograd, and no code of them, which would take minutes."""
    generating = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, **options: generating(function, backend="aot_eager", **options)
    )


@pytest.fixture
def fake_cuda(monkeypatch):
    """A device of tensors without values that say they are on a GPU: what mixes devices, or would have the host wait
    for a value, raises. What such tensors cannot do is done around them: autograd's backward pass, the fused optimizer,
    and moving a network."""
    device = torch.device("cuda", 0)

    def build(blueprint, state, masks, device):
        with torch.device(device):
            return build_network(blueprint.arch, blueprint.classes, blueprint.channels)

    def update(parameters, gradients, buffers, **options):
        tensors = [*parameters, *gradients, *buffers, options["lr"]]
        assert all(tensor.device == device for tensor in tensors)
        for together in zip(parameters, gradients, buffers, strict=True):
            assert len({tensor.stride() for tensor in together}) == 1  # fused SGD walks them flat

    def backward(loss):
        for parameter in optimized:
            parameter.grad = torch.empty_like(parameter)

    optimized, add_group = [], torch.optim.SGD.add_param_group

    def remember_and_add(optimizer, group):
        optimized.extend(group["params"])
        add_group(optimizer, group)

    monkeypatch.setattr(Blueprint, "build", build)
    monkeypatch.setattr(torch.nn.Module, "to", lambda network, *arguments, **options: network)
    monkeypatch.setattr(torch, "_fused_sgd_", update)
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    monkeypatch.setattr(torch.optim.SGD, "add_param_group", remember_and_add)
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: nullcontext())  # there is no CUDA to switch
    with FakeTensorMode():
        yield device
