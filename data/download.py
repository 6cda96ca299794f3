"""Fetching a data set through torchvision, with one line to read where there is no network."""

from pathlib import Path

from data.dataset import DataError


def download(source: type, root: Path, folder: Path, missing: list[str]) -> None:
    """Have torchvision's data set ``source`` fetch its files into ``root`` and unpack them to ``folder`` below it.

    Raises DataError that names the missing files where they cannot be fetched.
    """
    print(f"{folder} has no {', '.join(missing)}: downloading {source.__name__}")
    try:
        source(root, download=True)
    except Exception as error:  # no network, a server's refusal, a wrong checksum: torchvision raises many kinds
        raise DataError(
            f"{folder} has no {', '.join(missing)}, and downloading failed ({error}): "
            f"put the official {source.__name__} files there, or give the folder that has them as --data-root"
        ) from error
