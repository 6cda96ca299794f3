"""The fast path of training: lower precision, compilation and one CUDA graph, wrapped around the readable step.

Nothing here depends on the method, which is in ``make_train_step``. A whole step, from the images' indices to the masks
after the optimizer, is one CUDA graph: otherwise small networks wait for the host, which launches hundreds of kernels
per step. The same functions capture evaluations, and capture and compile error barriers, whose arithmetic is float32.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn

from utils.method.step import ForwardPass, TrainingError
from utils.training.devices import Speed
from utils.training.optimization import make_capturable, optimizer_state, restore_optimizer

COMPILERS = ("torch._dynamo", "torch._inductor", "torch._functorch", "triton")  # where their exceptions are defined
MOST_NETWORKS = 64  # that one process may compile
REPLAY_TOLERANCE = 0.1  # relative; dropout may draw different numbers
WARM_UP_RUNS = 3  # before a capture: libraries choose their kernels, and the optimizer allocates its buffers

Outputs = TypeVar("Outputs", Tensor, tuple[Tensor, Tensor])
DrawnStep = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def choose_layout(network: nn.Module, speed: Speed, device: torch.device) -> torch.memory_format:
    """What ``speed`` sets; by default channels-last, except for compiled CUDA code of a network with several input
    channels per group in a grouped convolution (ShuffleNet), which makes the compiler copy every tensor of the graph
    back and forth."""
    if speed.channels_last is not None:
        return torch.channels_last if speed.channels_last else torch.contiguous_format
    grouped = any(
        isinstance(module, nn.Conv2d) and 1 < module.groups < module.in_channels for module in network.modules()
    )
    return torch.contiguous_format if grouped and speed.compile and device.type == "cuda" else torch.channels_last


def accelerate(forward_pass: ForwardPass, speed: Speed, device: torch.device, batch_size: int) -> ForwardPass:
    """The forward pass in bf16 and compiled, if ``speed`` says so (α is a tensor, not a constant)."""
    if speed.precision == "bf16":
        forward_pass = _autocast(forward_pass, device)
    return compiled(forward_pass, speed, batch_size)


def compiled(function: Callable[..., Outputs], speed: Speed, batch_size: int) -> Callable[..., Outputs]:
    """The function, compiled for batches of ``batch_size`` if ``speed`` says so: as a single graph, or with an error
    that says why not. Smaller batches, at the end of an epoch, run uncompiled."""
    if not speed.compile:
        return function
    import torch._dynamo  # takes a second and is needed only here

    # Every network in a process counts as another version of this one function.
    torch._dynamo.config.recompile_limit = MOST_NETWORKS
    options = {"combo_kernels": True} if speed.combo_kernels else None
    whole_batch = torch.compile(function, fullgraph=True, dynamic=False, options=options)

    def compiled_function(*arguments: Tensor) -> Outputs:
        return (whole_batch if len(arguments[0]) == batch_size else function)(*arguments)

    return compiled_function


def explaining(function: Callable[..., Outputs]) -> Callable[..., Outputs]:
    """The function, with a failed compilation (forward or backward) raised as a TrainingError that says what to do."""

    def explained(*arguments: Tensor) -> Outputs:
        try:
            return function(*arguments)
        except Exception as error:
            if not type(error).__module__.startswith(COMPILERS):
                raise
            raise TrainingError(f"torch.compile failed ({_reason(error)}): do without (--no-compile)") from error

    return explained


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()[:40]) + " .."


def _autocast(forward_pass: ForwardPass, device: torch.device) -> ForwardPass:
    def autocast_pass(images: Tensor, labels: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        # Every weight is used once per pass, so caching its cast is useless.
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            return forward_pass(images, labels, alpha)

    return autocast_pass


def in_tf32(function: Callable[..., Outputs]) -> Callable[..., Outputs]:
    """The function with TF32 convolutions and matrix products on CUDA, forward and backward."""

    def tf32_function(*arguments: Tensor) -> Outputs:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
        try:
            return function(*arguments)
        finally:
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    return tf32_function


class Graphed:
    """A function of tensors that is captured into a CUDA graph at its first batch and replayed for every later one.

    ``function`` may use only its arguments and tensors that keep their addresses. It runs a few times before the
    capture, inside ``keeping``, which has to undo what these runs change. ``memory`` is ``graph_memory``'s.
    """

    def __init__(
        self,
        function: Callable[..., Outputs],
        memory: tuple[int, int],
        keeping: Callable[[], AbstractContextManager] = nullcontext,
    ):
        self.function, self.memory, self.keeping = function, memory, keeping
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: tuple[Tensor, ...] = ()
        self.outputs: Outputs | None = None

    def __call__(self, *arguments: Tensor) -> Outputs:
        """What ``function`` returns; the next call of any graph in the same memory overwrites it."""
        if self.graph is None:
            try:
                self._check_replay(expected=self._capture(arguments))
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise TrainingError(
                    f"no CUDA graph could be made ({_reason(error)}): do without (--no-cuda-graph)"
                ) from error
        for kept, given in zip(self.inputs, arguments, strict=True):
            kept.copy_(given)
        self.graph.replay()
        return self.outputs

    def _capture(self, arguments: tuple[Tensor, ...]) -> Tensor:
        """Returns the function's own first output."""
        self.inputs = tuple(argument.clone() for argument in arguments)
        with self.keeping():
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                expected = _first(self.function(*self.inputs)).float().clone()
                for _ in range(WARM_UP_RUNS - 1):
                    self.function(*self.inputs)
            torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.empty_cache()  # the graph has memory of its own, beside what the uncaptured runs used
        graph = torch.cuda.CUDAGraph()
        # This records and runs nothing. Other threads may use CUDA meanwhile; their work is not captured.
        with torch.cuda.graph(graph, pool=self.memory, capture_error_mode="thread_local"):
            self.outputs = self.function(*self.inputs)
        self.graph = graph
        return expected

    def _check_replay(self, expected: Tensor) -> None:
        """Raise TrainingError if a replay's first output (a step's loss) differs from the function's own, so that a
        graph that trains wrongly, or not at all, is noticed before its results."""
        with self.keeping():
            _first(self.outputs).zero_()
            self.graph.replay()
            found = _first(self.outputs).float().clone()
        if expected.isfinite().all() and not (found - expected).norm() <= REPLAY_TOLERANCE * expected.norm():
            raise TrainingError("a CUDA graph does not give what its step gives: do without (--no-cuda-graph)")


def _first(outputs: Outputs) -> Tensor:
    return outputs if isinstance(outputs, Tensor) else outputs[0]


def graph_memory(speed: Speed) -> tuple[int, int] | None:
    """Memory that several graphs may share if they are replayed on one stream, and if none of them reads what a replay
    has left there; None if ``speed`` says that there are no graphs."""
    return torch.cuda.graph_pool_handle() if speed.cuda_graph else None


def captured(
    function: Callable[..., Outputs],
    memory: tuple[int, int] | None,
    keeping: Callable[[], AbstractContextManager] = nullcontext,
) -> Callable[..., Outputs]:
    """The function as a CUDA graph in ``memory`` for each size of its batches, of which an epoch's last one may be
    smaller; without memory, as it is. ``keeping`` is ``Graphed``'s."""
    if memory is None:
        return function
    graphs: dict[int, Graphed] = {}

    def graphed(*arguments: Tensor) -> Outputs:
        size = len(arguments[0])
        if size not in graphs:
            graphs[size] = Graphed(function, memory, keeping)
        return graphs[size](*arguments)

    return graphed


def captured_step(
    step: DrawnStep, memory: tuple[int, int] | None, network: nn.Module, optimizer: torch.optim.Optimizer
) -> DrawnStep:
    """The whole step as a CUDA graph in ``memory``, if there is one, for each size of batches."""
    if memory is None:
        return step
    make_capturable(optimizer, next(network.parameters()).device)

    @contextmanager
    def keeping() -> Iterator[None]:
        with unchanged(network, optimizer):
            yield
        # The capture would use existing gradients, which lie outside the graph's own memory.
        optimizer.zero_grad(set_to_none=True)

    return captured(step, memory, keeping)


@contextmanager
def unchanged(network: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Undo what the steps inside change in weights, batch-norm statistics, optimizer and random numbers. Every tensor
    keeps its address; what the optimizer did not have before is zero afterwards, which trains identically."""
    device = next(network.parameters()).device
    remembered = [{name: value.clone() for name, value in state.items()} for state in optimizer_state(optimizer)]
    with (
        torch.random.fork_rng(devices=[device]) if device.type == "cuda" else nullcontext(),
        restoring([*network.parameters(), *network.buffers()]),
    ):
        yield
    restore_optimizer(optimizer, remembered)


@contextmanager
def restoring(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Undo what happens to the tensors inside, in place."""
    before = [tensor.detach().clone() for tensor in tensors]
    yield
    with torch.no_grad():
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)
