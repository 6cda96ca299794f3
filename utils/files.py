"""Files that are written whole or not at all, and read as data only."""

import csv
import io
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch

from utils.errors import UserError


class FileError(UserError):
    """A file that is damaged or not one of this program; the message names it and says what to do."""


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, synced and renamed at the end: ``path`` is always the old file or the whole new one.

    Raises OSError.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: Path, content: bytes | memoryview) -> None:
    with written_whole(path) as file:
        file.write(content)


def save(path: Path, content: dict) -> None:
    """``torch.save`` to memory, then to disk at once: a full disk is an OSError and leaves the old file whole."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write(path, buffer.getbuffer())


def load(path: Path) -> dict:
    """What ``save`` wrote, on the CPU, as data only.

    Raises FileError if the file is damaged or not ours, FileNotFoundError if there is none.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch itself does not compare the checksums
        if damaged is not None:
            raise FileError(f"{path} is damaged (wrong checksum of {damaged})")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, FileError):
        raise
    except Exception as error:  # a damaged archive or pickle can raise nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileError(f"{path} is damaged or no file of this program ({reason})") from error
    if not isinstance(content, dict):
        raise FileError(f"{path} is no file of this program")
    return content


def write_json(path: Path, content: dict) -> None:
    write(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> dict:
    """Raises FileError if the file is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FileError(f"{path} is damaged ({error}): delete that file and run the same command again") from error
    if not isinstance(content, dict):
        raise FileError(f"{path} is damaged: delete that file and run the same command again")
    return content


def write_csv(path: Path, rows: Sequence[dict]) -> None:
    """The rows under all their keys; a row's missing keys are left empty."""
    text = io.StringIO()
    columns = dict.fromkeys(key for row in rows for key in row)
    writer = csv.DictWriter(text, fieldnames=list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write(path, text.getvalue().encode())
