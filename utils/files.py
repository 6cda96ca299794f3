"""Files that are written whole or not at all, and read as data only."""

import csv
import io
import json
import math
import os
import zipfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import torch

from utils.errors import UserError, lacks_memory

# What ``save`` writes ends with a digest of all bytes before it, as the comment of the zip archive that it is.
SEAL = b"sha256 "
SEAL_SIZE = len(SEAL) + 2 * sha256().digest_size
ENCRYPTED = 0x1  # a flag of a zip entry


class FileError(UserError):
    """A file that is damaged or not one of this program; the message names it and says what to do."""


@contextmanager
def naming_damage(path: Path | zipfile.Path, complaint: str) -> Iterator[None]:
    """Read ``path`` in this context, and a damaged file is a FileError: its name, ``complaint`` and the reason.

    An OSError that names the file, such as FileNotFoundError, stays what it is, and so does torch's lack of memory.
    Python's own MemoryError can come from a damaged size.
    """
    try:
        yield
    except Exception as error:  # a damaged archive or pickle can raise nearly anything, even an OSError without a file
        certain = lacks_memory(error) and not isinstance(error, MemoryError)
        if isinstance(error, FileError) or (isinstance(error, OSError) and error.filename) or certain:
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileError(f"{path} {complaint} ({reason})") from error


@contextmanager
def advising(remedy: str) -> Iterator[None]:
    """Within, a FileError ends with what to do."""
    try:
        yield
    except FileError as error:
        raise FileError(f"{error}: {remedy}") from error


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
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and not error.filename:
            error.filename = str(path.parent)  # which a full disk's own error does not name
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
    """``torch.save`` to memory, sealed, then to disk at once: a full disk is an OSError and leaves the old file."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    buffer.seek(-2, io.SEEK_END)  # where an archive without a comment has its length, 0
    buffer.write(SEAL_SIZE.to_bytes(2, "little"))
    seal = _seal(buffer.getbuffer())
    buffer.write(seal)
    write(path, buffer.getbuffer())


def load(path: Path) -> dict:
    """What ``save`` wrote, on the CPU, as data only.

    Raises FileError if the file is damaged or not ours, FileNotFoundError if there is none.
    """
    complaint = "is damaged or no file of this program"
    with naming_damage(path, complaint):
        whole = path.read_bytes()  # at once: what is checked is what is loaded
        check_index(io.BytesIO(whole))
        _check_bytes(whole)
    try:
        content = torch.load(io.BytesIO(whole), map_location="cpu", weights_only=True)
    except Exception as error:
        if lacks_memory(error):  # its bytes are those that were written
            raise
        # The message may advise to run what the file holds.
        raise FileError(f"{path} {complaint} (torch cannot read it as data alone)") from error
    with naming_damage(path, complaint):
        return _checked(content)


def check_index(file: Path | BinaryIO) -> None:
    """Raises an exception unless the file is an archive as ``torch.save`` writes it, by its index alone: that it is not
    cut, and has no entry that torch would read otherwise. Bytes within are not compared."""
    with zipfile.ZipFile(file) as archive:
        check_entries(archive, {zipfile.ZIP_STORED})
        entries = archive.infolist()
    # An entry with a folder's attribute would be one to torch, which leaves its tensor uninitialized.
    if any(entry.external_attr or entry.is_dir() or entry.file_size != entry.compress_size for entry in entries):
        raise ValueError("its index is not what torch writes")
    if not entries or min(entry.header_offset for entry in entries) != 0:
        raise ValueError("some of it is missing")


def is_whole_archive(path: Path) -> bool:
    """Whether a zip archive is there, and all its bytes are those that were written."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # a damaged archive can raise nearly anything
        return False


def check_entries(archive: zipfile.ZipFile, compressions: Collection[int], largest: float = math.inf) -> None:
    """Raises ValueError if a zip archive has an entry twice, encrypted, compressed by another method or of more than
    ``largest`` bytes."""
    names = set()
    for entry in archive.infolist():
        if entry.filename in names or entry.flag_bits & ENCRYPTED or entry.compress_type not in compressions:
            raise ValueError(f"its {entry.filename} is there twice, encrypted or oddly compressed")
        if entry.file_size > largest:
            raise ValueError(f"its {entry.filename} has {entry.file_size} bytes")
        names.add(entry.filename)


def _seal(content: bytes | memoryview) -> bytes:
    return SEAL + sha256(content).hexdigest().encode()


def _check_bytes(whole: bytes) -> None:
    """Raises ValueError if any byte of a sealed file, or of a tensor in a file from before there were seals, is not the
    one that was written."""
    seal = whole[-SEAL_SIZE:]
    if seal.startswith(SEAL):
        if seal != _seal(memoryview(whole)[:-SEAL_SIZE]):
            raise ValueError("its bytes are not those that were written")
        return
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        damaged = archive.testzip()  # torch itself does not compare the checksums
    if damaged is not None:
        raise ValueError(f"wrong checksum of {damaged}")


def write_json(path: Path, content: dict) -> None:
    write(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path, remedy: str = "delete that file and run the same command again") -> dict:
    """Raises FileError with the remedy if the file is damaged."""
    with naming_damage(path, f"is damaged: {remedy}"):
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
