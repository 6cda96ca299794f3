"""Downloading a data set through torchvision, with a one-line error if that fails."""

from pathlib import Path

from utils.errors import UserError


def download(source: type, root: Path, folder: Path, missing: list[str]) -> None:
    """Have torchvision's data set ``source`` download its files into ``root`` and unpack them to ``folder`` below it.

    Raises UserError, naming the missing files, if the download fails.
    """
    print(f"{folder} has no {', '.join(missing)}: downloading {source.__name__}")
    try:
        source(root, download=True)
    except Exception as error:  # no network, a refused request, a wrong checksum: torchvision raises many types
        raise UserError(
            f"{folder} has no {', '.join(missing)}, and downloading failed ({error}): "
            f"put the official {source.__name__} files there, or set --data-root to the data folder that has them"
        ) from error
