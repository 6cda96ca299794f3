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
def naming_damage(path: Path | zipfile.Path, complaint: str) -> Iterator[None]:
    """Read ``path`` in this context, and a damaged file is a FileError: its name, ``complaint`` and the reason.

    An OSError that names the file, such as FileNotFoundError, stays what it is.
    """
    try:
        yield
    except Exception as error:  # a damaged archive or pickle can raise nearly anything, even an OSError without a file
        if isinstance(error, FileError) or (isinstance(error, OSError) and error.filename):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileError(f"{path} {complaint} ({reason})") from error


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
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


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
    with naming_damage(path, "is damaged or no file of this program"):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch itself does not compare the checksums
        if damaged is not None:
            raise ValueError(f"wrong checksum of {damaged}")
        return _checked(torch.load(path, map_location="cpu", weights_only=True))


def write_json(path: Path, content: dict) -> None:
    write(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> dict:
    """Raises FileError if the file is damaged."""
    with naming_damage(path, "is damaged: delete that file and run the same command again"):
        return _checked(json.loads(path.read_text(encoding="utf-8")))


def _checked(content: object) -> dict:
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__} instead of a dict")
    return content


def write_csv(path: Path, rows: Sequence[dict]) -> None:
    """The rows under all their keys; a row's missing keys are left empty."""
    text = io.StringIO()
    columns = dict.fromkeys(key for row in rows for key in row)
    writer = csv.DictWriter(text, fieldnames=list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write(path, text.getvalue().encode())
