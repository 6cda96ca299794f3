"""Random numbers as a pure function of a seed and a purpose, so that any epoch can be repeated on its own."""

import hashlib

import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A seed for one purpose, such as ``derive_seed(1, "level_03", epoch)``: 63 bits, unrelated between purposes.

    Every epoch seeds its own generators, so an interrupted training continues exactly without saved generator states.
    """
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_global_generators(seed: int) -> None:
    """Seed torch's global generators (CPU and every GPU), which drive initialization, dropout and stochastic depth."""
    torch.manual_seed(seed)
