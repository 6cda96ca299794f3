"""Errors that a user can fix, as one line: what is wrong and what to do."""

import argparse
import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

import torch


class UserError(Exception):
    """Something that the user can fix: the message says what is wrong and what to do."""


EXPECTED = (UserError, torch.OutOfMemoryError, MemoryError, OSError, UnicodeError)
NO_MEMORY = "can't allocate memory"  # torch's words, in a RuntimeError
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
    errno.EEXIST: "name a folder, or move that file away",
    errno.ELOOP: "mend the links, which lead in a circle",
    errno.EMFILE: "allow this program more open files (ulimit -n)",
}


def exit_status(program: str, job: Callable[[], None]) -> int:
    """Run ``job``. Returns 0 if it ended well, 2 after one line on stderr for an expected error, 130 for an interrupt.

    Any other exception is a defect of this program and keeps its traceback.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # programs begin with it, to import without tracebacks
        signal.signal(signal.SIGINT, signal.default_int_handler)
    open_streams()
    shown = threading.excepthook  # what a thread meets, such as a full disk, is raised again where it is waited for
    threading.excepthook = lambda failed: None if issubclass(failed.exc_type, EXPECTED) else shown(failed)
    try:
        job()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return say(f"{program}: interrupted; run the same command again", INTERRUPTED)
    except BrokenPipeError:  # whoever reads the output has seen enough
        return REFUSED
    except Exception as error:
        if not isinstance(error, EXPECTED) and not lacks_memory(error):
            raise
        return say(f"{program}: error: {one_line(error)}", REFUSED)
    finally:
        threading.excepthook = shown
        give_up_unwritable(sys.stdout)
        give_up_unwritable(sys.stderr)
    return 0


def lacks_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or NO_MEMORY in str(error)


def open_streams() -> None:
    """Standard streams that are closed lead nowhere: else the next file that is opened would have their place. A
    terminal without θ and ± must not end a finished job."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if nowhere != descriptor:
                os.dup2(nowhere, descriptor)
            setattr(sys, name, open(descriptor, "w", closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def say(message: str, status: int) -> int:
    """Print the line on stderr, if that can be written to; returns the status."""
    with suppress(OSError):
        print(message, file=sys.stderr, flush=True)
    return status


def give_up_unwritable(stream: io.TextIOWrapper) -> None:
    """What cannot be written to a stream goes nowhere: else Python complains about it when it exits."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def one_line(error: Exception) -> str:
    """The message of an expected error, without line breaks and with what to do."""
    text = " ".join(str(error).split())
    if isinstance(error, torch.OutOfMemoryError):
        return f"the GPU's memory is full: choose a smaller --batch-size, or a --micro-batch-size ({text})"
    if lacks_memory(error):
        return "the memory is full: run less at once, or with a smaller --batch-size; what was finished is kept"
    if isinstance(error, UnicodeError):
        return f"a name or a file has bytes that are no text: rename or correct it ({text})"
    if isinstance(error, OSError) and error.errno in REMEDIES:
        file = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
        return f"{error.strerror}{file}: {REMEDIES[error.errno]}"
    return text


def refuse(parser: argparse.ArgumentParser, message: str) -> None:
    """Replaces an argument parser's ``error``, whose usage text would be many lines long."""
    first = os.environ.get("RANK", "0") == "0"  # of torchrun's processes, which all have this command line
    parser.exit(REFUSED, f"{parser.prog}: error: {message} (--help lists the flags)\n" if first else None)
