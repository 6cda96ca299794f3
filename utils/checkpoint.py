"""Networks on disk: written whole or not at all, read as data only."""

import io
import os
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn


class CheckpointError(Exception):
    """A file that should hold a network and does not; the message names it and says what to do."""


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write, sync and rename, so that ``path`` is always the old file or the whole new one. Raises OSError."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save(path: Path, content: dict) -> None:
    """``torch.save`` to memory, then to disk at once: a full disk is an OSError and leaves the old file whole."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getbuffer())


def load(path: Path) -> dict:
    """What ``save`` wrote, on the CPU, as data only. Raises CheckpointError where the file is damaged or not ours,
    FileNotFoundError where there is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch itself does not compare the checksums
        if damaged is not None:
            raise CheckpointError(f"{path} is damaged (wrong checksum of {damaged})")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, CheckpointError):
        raise
    except Exception as error:  # a damaged archive or pickle can raise nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is damaged or no file of this program ({reason})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is no file of this program")
    return content


def plain_state(network: nn.Module) -> dict[str, Tensor]:
    """The network's state dict as anybody's code expects it: on the CPU, contiguous, a copy."""
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous(memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }
