"""One image in a file: opened, decoded, made smaller.

Pillow, which torchvision needs anyway, reads every kind of file. torchcodec, if it is installed, decodes the plain ones
faster, to the same pixels (``tests/test_imagenet.py``). It turns images by their EXIF orientation, which Pillow and the
published pipelines do not, so files with EXIF are left to Pillow.
"""

import io
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from utils.files import naming_damage

FORMATS = ("JPEG", "PNG")  # ImageNet has a PNG under the name of a JPEG
QUALITY = 95  # of smaller copies
DAMAGED = "is damaged: fetch it again; a smaller copy is made again as data/README.md says"


def open_image(path: Path) -> Image.Image:
    """The image with its size, not decoded yet. Raises FileError if it is damaged."""
    with naming_damage(path, DAMAGED), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*EXIF")  # some is damaged, and none is used
        return Image.open(io.BytesIO(path.read_bytes()), formats=FORMATS)


@cache
def fast_decoder() -> Callable[[Tensor], Tensor] | None:
    """torchcodec's for JPEGs, bytes -> uint8 (3, H, W), if it is there and fits this torch."""
    with suppress(ImportError, OSError, RuntimeError):  # the last two of libraries that cannot be loaded
        from torchcodec.decoders import decode_jpeg

        return decode_jpeg
    return None


def decode(image: Image.Image, path: Path, fast: bool = True) -> Tensor:
    """uint8 (3, H, W) of an opened image; gray and CMYK become RGB. ``fast``: by torchcodec if it can. Raises FileError
    if the image is damaged."""
    if fast and fast_decoder() and is_plain(image):
        with suppress(RuntimeError):  # what it cannot decode, Pillow can or names
            return fast_decoder()(torch.frombuffer(image.fp.getbuffer(), dtype=torch.uint8))
    with naming_damage(path, DAMAGED):
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def is_plain(image: Image.Image) -> bool:
    """Whether torchcodec's pixels are Pillow's."""
    return image.format == "JPEG" and image.mode in ("RGB", "L") and "exif" not in image.info


def shrunk(path: Path, short_side: int) -> bytes:
    """A JPEG with this shorter side, resized as test images are; an image that has no more is kept as it is."""
    image, content = open_image(path), io.BytesIO()
    if min(image.size) <= short_side:
        return path.read_bytes()
    pixels = transforms.resize(decode(image, path), [short_side], antialias=True)
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(content, "JPEG", quality=QUALITY)
    return content.getvalue()
