"""What tests of the fast path share: CUDA graphs without CUDA, and nothing kept from earlier compilations."""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from models import build_network
from utils.blueprint import Blueprint
from utils.fast_path import Graphed


class ReplayedGraph:
    """In the place of a CUDA graph: replaying runs the step again on the captured tensors."""

    graphed: Graphed

    def replay(self):
        new = self.graphed.function(*self.graphed.inputs)
        if isinstance(new, torch.Tensor):
            self.graphed.outputs.copy_(new)
        else:
            for kept, tensor in zip(self.graphed.outputs, new, strict=True):
                kept.copy_(tensor)


@pytest.fixture
def replayed_graphs(monkeypatch):
    """Graphed on the CPU: a capture runs the step and takes back what it did; returns the graphs that were made."""
    graphs = []

    @contextmanager
    def capture(graph, capture_error_mode):
        (graphed,) = [made for made in captured if made.graph is None]
        graph.graphed = graphed
        graphs.append(graph)
        with graphed.keeping():
            yield

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
