"""What tests of the fast path share: CUDA graphs without CUDA, and nothing kept from earlier compilations."""

from contextlib import contextmanager, nullcontext

import pytest
import torch

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
