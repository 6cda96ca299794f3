"""A Python that has imported torch already, for the tests that run many commands: each import takes seconds.

``warm_environment`` starts a server that imports the libraries and none of this project's modules, and gives the
environment in which ``python``, ``python3`` and ``$PYTHON`` run their script in a fork of it: with their own
arguments, folder, environment, open files and exit status. What is no script is run by the real Python.
"""

import atexit
import fcntl
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path

WRAPPER = """#!/bin/sh
case "$1" in
    *.py) exec {python} -IS {file} ask {address} "$0" "$@" ;;
esac
exec {python} "$@"
"""


@cache
def warm_environment() -> dict[str, str]:
    """One server serves all tests of a process. One thread for each command: their networks are small."""
    folder = tempfile.TemporaryDirectory()
    address, python = Path(folder.name) / "server", Path(folder.name) / "python"
    for program in (python, python.with_name("python3")):
        program.write_text(WRAPPER.format(python=sys.executable, file=__file__, address=address))
        program.chmod(0o755)
    server = subprocess.Popen([sys.executable, __file__, "serve", str(address)], stdout=subprocess.PIPE)
    atexit.register(lambda: (server.kill(), server.wait(), folder.cleanup()))
    server.stdout.readline()  # it is ready
    return {
        **{"PYTHON": str(python), "PATH": f"{python.parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"},
        "CHECKED_PYTHON": str(python),
    }


def serve(address: str) -> None:
    for library in ("torch.utils.tensorboard", "torchvision", "matplotlib.pyplot"):
        importlib.import_module(library)
    gc.freeze()  # what is shared with the forks is not copied by their garbage collections
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        print("ready", flush=True)
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                break
            connection.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request, streams, _, _ = socket.recv_fds(connection, 1 << 20, 64)
    numbers, *asked = json.loads(request)
    # First out of the way of each other's numbers.
    status = fcntl.fcntl(connection.detach(), fcntl.F_DUPFD_CLOEXEC, 500)
    moved = [fcntl.fcntl(stream, fcntl.F_DUPFD_CLOEXEC, 500) for stream in streams]
    for stream, number in zip(moved, numbers, strict=True):
        os.dup2(stream, number)
    os.write(status, str(run(*asked)).encode())
    os._exit(0)  # an ordinary end would free, and so copy, all that is shared


def run(python: str, arguments: list[str], folder: str, environment: dict[str, str]) -> int:
    """Returns the exit status."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    if "OMP_NUM_THREADS" in environment:
        sys.modules["torch"].set_num_threads(int(environment["OMP_NUM_THREADS"]))
    sys.executable = python
    try:
        sys.path[0], sys.argv = str(Path(arguments[0]).resolve().parent), arguments
        runpy.run_path(arguments[0], run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def is_open(number: int) -> bool:
    """Not so the listing's own, once it is made."""
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def ask(address: str, *command: str) -> int:
    numbers = [number for number in map(int, os.listdir("/proc/self/fd")) if is_open(number)]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        request = json.dumps([numbers, command[0], command[1:], os.getcwd(), dict(os.environ)]).encode()
        socket.send_fds(connection, [request], numbers)
        return int(connection.recv(16) or 1)  # nothing comes from one that was killed


if __name__ == "__main__":
    sys.exit({"serve": serve, "ask": ask}[sys.argv[1]](*sys.argv[2:]))
