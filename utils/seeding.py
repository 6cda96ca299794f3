"""Random numbers as a pure function of a seed and a purpose, so that any epoch can be repeated on its own."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A seed for one purpose, such as ``derive_seed(1, "level_03", epoch)``: 63 bits, unrelated between purposes.

    Every epoch seeds its own generators, so an interrupted training continues exactly without saved generator states.
    """
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's global generators, of the CPU and of a GPU that is in use, in the middle of an epoch."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def restore_generators(states: Mapping[str, Tensor]) -> None:
    """Restore what ``generator_states`` returned; nothing leaves the generators as they are."""
    if "cpu" in states:
        torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
