"""Errors that a user can fix, as one line: what is wrong and what to do."""

import argparse
import errno
import io
import os
import sys
from collections.abc import Callable

import torch


class UserError(Exception):
    """Something that the user can fix: the message says what is wrong and what to do."""


EXPECTED = (UserError, torch.OutOfMemoryError, OSError)
INTERRUPTED = 130
REFUSED = 2

FREE_SPACE = "free some space and run the same command again; what was finished is kept"
REMEDIES = {
    errno.ENOSPC: FREE_SPACE,
    errno.EDQUOT: FREE_SPACE,
    errno.EFBIG: "allow larger files and run the same command again; what was finished is kept",
    errno.EROFS: "choose a folder that can be written with --runs-dir",
    errno.EACCES: "choose a folder that you may use",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "name a folder that is one, or could be made",
    errno.EISDIR: "name a file",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def exit_status(program: str, job: Callable[[], None]) -> int:
    """Run ``job``. Returns 0 if it ended well, 2 after one line on stderr for an expected error, 130 for an interrupt.

    Any other exception is a defect of this program and keeps its traceback.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without θ and ± must not end a finished job
    try:
        job()
    except KeyboardInterrupt:
        print(f"{program}: interrupted; run the same command again", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever reads the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it exits
        return REFUSED
    except EXPECTED as error:
        print(f"{program}: error: {one_line(error)}", file=sys.stderr)
        return REFUSED
    return 0


def one_line(error: Exception) -> str:
    """The message of an expected error, without line breaks and with what to do."""
    text = " ".join(str(error).split())
    if isinstance(error, torch.OutOfMemoryError):
        return f"the GPU's memory is full: choose a smaller --batch-size, or a --micro-batch-size ({text})"
    if isinstance(error, OSError) and error.errno in REMEDIES:
        file = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{file}: {REMEDIES[error.errno]}"
    return text


def refuse(parser: argparse.ArgumentParser, message: str) -> None:
    """Replaces an argument parser's ``error``, whose usage text would be many lines long."""
    parser.exit(REFUSED, f"{parser.prog}: error: {message} (--help lists the flags)\n")
