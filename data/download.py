"""Downloading a data set through torchvision, with a one-line error if that fails."""

from pathlib import Path

from utils.errors import UserError


def download_missing(source: type, root: Path, folder: Path, names: list[str]) -> None:
    """Unless ``folder`` below ``root`` has all the files, have torchvision's data set ``source`` download them.

    Raises UserError, naming the missing files, if the download fails.
    """
    missing = ", ".join(name for name in names if not (folder / name).is_file())
    if not missing:
        return
    print(f"{folder} has no {missing}: downloading {source.__name__}")
    try:
        source(root, download=True)
    except Exception as error:  # no network, a refused request, a wrong checksum: torchvision raises many types
        raise UserError(
            f"{folder} has no {missing}, and downloading failed ({error}): "
            f"put the official {source.__name__} files there, or set --data-root to the data folder that has them"
        ) from error
