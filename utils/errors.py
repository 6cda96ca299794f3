"""Errors that a person can mend, as one line: what is wrong and what to do."""

import errno
import io
import os
import sys
from collections.abc import Callable

import torch

from data import DataError
from utils.checkpoint import CheckpointError
from utils.devices import DeviceError
from utils.pruning import PruningError
from utils.run_folder import RunFolderError
from utils.signed_mask import SignedMaskError
from utils.training import TrainingError

EXPECTED = (
    DataError,
    PruningError,
    SignedMaskError,
    CheckpointError,
    RunFolderError,
    TrainingError,
    DeviceError,
    torch.OutOfMemoryError,
    OSError,
)
INTERRUPTED = 130
REFUSED = 2

REMEDIES = {
    errno.ENOSPC: "free some space and run the same command again; what was finished is kept",
    errno.EDQUOT: "free some space and run the same command again; what was finished is kept",
    errno.EFBIG: "allow larger files and run the same command again; what was finished is kept",
    errno.EROFS: "choose a folder that can be written with --runs-dir",
    errno.EACCES: "choose a folder that you may use",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "name a folder that is one, or could be made",
    errno.EISDIR: "name a file",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def exit_status(program: str, job: Callable[[], None]) -> int:
    """Run ``job``: 0 where it went well, 2 with one line on stderr for an expected error, 130 for an interrupt.

    Any other exception is a defect of this program and keeps its traceback.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without θ and ± must not end a finished job
    try:
        job()
    except KeyboardInterrupt:
        print(f"{program}: interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever reads the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end
        return REFUSED
    except EXPECTED as error:
        print(f"{program}: error: {one_line(error)}", file=sys.stderr)
        return REFUSED
    return 0


def one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, torch.OutOfMemoryError):
        return f"the GPU's memory is full: choose a smaller --batch-size ({text})"
    if isinstance(error, OSError) and error.errno in REMEDIES:
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{where}: {REMEDIES[error.errno]}"
    return text


def refuse(parser, message: str) -> None:
    """In the place of an argument parser's ``error``, whose usage text would be many lines long."""
    parser.exit(REFUSED, f"{parser.prog}: error: {message} (--help lists the flags)\n")
