"""The fast path of training: lower precision, compilation and one CUDA graph, wrapped around the readable step.

None of it knows the method: ``make_train_step`` tells that. A whole step, from the images' indices to the masks after
the optimizer, is one CUDA graph: small networks otherwise wait for the host, which launches some hundreds of kernels a
step. Evaluations are captured, and error barriers captured and compiled, by the same functions; float32 always.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from utils.devices import DeviceError
from utils.optimization import momenta, rate_tensor, set_momenta
from utils.training import ForwardPass, TrainingError

PRECISIONS = ("fp32", "tf32", "bf16")
COMPILERS = ("torch._dynamo", "torch._inductor", "torch._functorch", "triton")  # whose exceptions are theirs
MOST_NETWORKS = 64  # that a process may compile
REPLAY_TOLERANCE = 0.1  # dropout may draw other numbers
WARM_UP_RUNS = 3  # before a capture: libraries choose their kernels, and the optimizer makes its buffers

CONTIGUOUS, CHANNELS_LAST = torch.contiguous_format, torch.channels_last

Outputs = TypeVar("Outputs", Tensor, tuple[Tensor, Tensor])
DrawnStep = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Speed:
    """How a training step is run. ``precision``: of the forward and backward pass; weights, their updates, batch-norm
    statistics and loss are float32 in all of them. ``channels_last``: the order of images and weights in memory."""

    precision: str = "fp32"
    compile: bool = False
    cuda_graph: bool = False
    channels_last: bool | None = None  # None: as suits the network

    @property
    def builds_once(self) -> bool:
        """Whether a step is expensive to make, so that one should serve many stages."""
        return self.compile or self.cuda_graph


def choose_speed(
    device: torch.device, precision: str | None = None, compile: bool | None = None, cuda_graph: bool | None = None
) -> Speed:
    """What is asked for, and where nothing is: all that a CUDA device has, the readable step as it is on the CPU.

    Raises DeviceError for what the device has not.
    """
    cuda = device.type == "cuda"
    if cuda_graph and not cuda:
        raise DeviceError(f"--cuda-graph needs a CUDA device, not {device}")
    if precision == "tf32" and not cuda:
        raise DeviceError(f"--precision tf32 is one of CUDA devices, not of {device}: choose fp32")
    return Speed(
        precision=precision or ("bf16" if cuda and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"),
        compile=cuda if compile is None else compile,
        cuda_graph=cuda if cuda_graph is None else cuda_graph,
    )


def choose_layout(network: nn.Module, speed: Speed, device: torch.device) -> torch.memory_format:
    """Channels-last, but for compiled CUDA code of a network whose grouped convolutions have several input channels a
    group (ShuffleNet): one of these has the compiler copy every tensor of the graph back and forth."""
    if speed.channels_last is not None:
        return CHANNELS_LAST if speed.channels_last else CONTIGUOUS
    grouped = any(
        isinstance(module, nn.Conv2d) and 1 < module.groups < module.in_channels for module in network.modules()
    )
    return CONTIGUOUS if grouped and speed.compile and device.type == "cuda" else CHANNELS_LAST


def accelerate(forward_pass: ForwardPass, speed: Speed, device: torch.device, batch_size: int) -> ForwardPass:
    """The forward pass in the chosen precision, compiled if so chosen (α is a tensor, and no constant there)."""
    if speed.precision == "bf16":
        forward_pass = _autocast(forward_pass, device)
    return compiled(forward_pass, speed, batch_size)


def compiled(function: Callable[..., Outputs], speed: Speed, batch_size: int) -> Callable[..., Outputs]:
    """The function, where ``speed`` has it compiled, for batches of ``batch_size``: to one graph, or an error that says
    why not. Smaller batches, at the end of an epoch, take it as it is."""
    if not speed.compile:
        return function
    import torch._dynamo  # takes a second, and is not needed otherwise

    # Every network that a process makes counts as another version of this one function.
    torch._dynamo.config.recompile_limit = MOST_NETWORKS
    whole_batch = torch.compile(function, fullgraph=True, dynamic=False)

    def compiled_function(*arguments: Tensor) -> Outputs:
        return (whole_batch if len(arguments[0]) == batch_size else function)(*arguments)

    return compiled_function


def explaining(function: Callable[..., Outputs]) -> Callable[..., Outputs]:
    """The function, whose failing compilation, forward or backward, is a TrainingError that says what to do."""

    def explained(*arguments: Tensor) -> Outputs:
        try:
            return function(*arguments)
        except Exception as error:
            if not type(error).__module__.startswith(COMPILERS):
                raise
            reason = " ".join(str(error).split()[:40])
            raise TrainingError(f"torch.compile failed ({reason} ..): do without (--no-compile)") from error

    return explained


def _autocast(forward_pass: ForwardPass, device: torch.device) -> ForwardPass:
    def autocast_pass(images: Tensor, labels: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        # Every weight is used once a pass: there is nothing to cache.
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            return forward_pass(images, labels, alpha)

    return autocast_pass


def in_tf32(step: DrawnStep, speed: Speed) -> DrawnStep:
    """The step with TF32 in its convolutions and products, forward and backward, where ``speed`` asks for it."""
    if speed.precision != "tf32":
        return step

    def tf32_step(chosen: Tensor, drawn: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
        try:
            return step(chosen, drawn, alpha)
        finally:
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    return tf32_step


class Graphed:
    """A function of tensors that is captured into a CUDA graph with its first whole batch, and replayed for every one
    after it; smaller batches, at the end of an epoch, run as they are.

    ``function`` may use nothing but its arguments and tensors that stay where they are. It is run some times before the
    capture, inside ``keeping``, which has to take back what these runs change.
    """

    def __init__(
        self,
        function: Callable[..., Outputs],
        batch_size: int,
        keeping: Callable[[], AbstractContextManager] = nullcontext,
    ):
        self.function, self.batch_size, self.keeping = function, batch_size, keeping
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: tuple[Tensor, ...] = ()
        self.outputs: Outputs | None = None

    def __call__(self, *arguments: Tensor) -> Outputs:
        """What ``function`` returns; the next call writes over it."""
        if len(arguments[0]) != self.batch_size:
            return self.function(*arguments)
        if self.graph is None:
            try:
                self._capture(arguments)
                self._check_replay()
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                reason = " ".join(str(error).split()[:40])
                raise TrainingError(
                    f"no CUDA graph could be made ({reason} ..): do without (--no-cuda-graph)"
                ) from error
        for kept, given in zip(self.inputs, arguments, strict=True):
            kept.copy_(given)
        self.graph.replay()
        return self.outputs

    def _capture(self, arguments: tuple[Tensor, ...]) -> None:
        self.inputs = tuple(argument.clone() for argument in arguments)
        with self.keeping():
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP_RUNS):
                    self.function(*self.inputs)
            torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Records, and runs nothing; what other threads do meanwhile is no part of it.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self.outputs = self.function(*self.inputs)
        self.graph = graph

    def _check_replay(self) -> None:
        """Raises TrainingError where a replay gives another first output (a step's loss) than the function itself: a
        graph that trains wrongly, or not at all, is not to be noticed by its results only."""
        with self.keeping():
            expected = _first(self.function(*self.inputs)).float().clone()
        with self.keeping():
            _first(self.outputs).zero_()
            self.graph.replay()
            found = _first(self.outputs).float().clone()
        torch.cuda.empty_cache()  # what the function itself took: from here on it is replayed
        if expected.isfinite().all() and not (found - expected).norm() <= REPLAY_TOLERANCE * expected.norm():
            raise TrainingError("a CUDA graph does not give what its step gives: do without (--no-cuda-graph)")


def _first(outputs: Outputs) -> Tensor:
    return outputs if isinstance(outputs, Tensor) else outputs[0]


def captured(
    function: Callable[..., Outputs],
    speed: Speed,
    batch_size: int,
    keeping: Callable[[], AbstractContextManager] = nullcontext,
) -> Callable[..., Outputs]:
    """The function as one CUDA graph, where ``speed`` has it so."""
    return Graphed(function, batch_size, keeping) if speed.cuda_graph else function


def captured_step(
    step: DrawnStep, speed: Speed, network: nn.Module, optimizer: torch.optim.Optimizer, batch_size: int
) -> DrawnStep:
    """The whole step as one CUDA graph, where ``speed`` has it so."""
    if not speed.cuda_graph:
        return step
    rate_tensor(optimizer, next(network.parameters()).device)

    @contextmanager
    def keeping() -> Iterator[None]:
        with unchanged(network, optimizer):
            yield
        # Gradients that are there would be read from outside the graph's own memory.
        optimizer.zero_grad(set_to_none=True)

    return captured(step, speed, batch_size, keeping)


@contextmanager
def unchanged(network: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Steps within leave no trace in weights, batch-norm statistics, momentum and random numbers. Every tensor stays
    where it is; momentum that did not exist is zero then, which trains alike."""
    tensors = [*network.parameters(), *network.buffers()]
    before = [tensor.detach().clone() for tensor in tensors]
    momenta_before = [None if buffer is None else buffer.clone() for buffer in momenta(optimizer)]
    cuda = tensors[0].device.type == "cuda"
    with torch.random.fork_rng(devices=[tensors[0].device]) if cuda else nullcontext():
        yield
    with torch.no_grad():
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)
    set_momenta(optimizer, momenta_before)
