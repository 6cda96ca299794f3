"""What Mixers and vision transformers share: images as tokens, one embedded vector for every patch, and perceptrons."""

from torch import Tensor, nn

from utils.errors import UserError

LARGE_PATCH = 16  # pixels; for images of 224 pixels
MOST_TOKENS = 8  # on a side of a small network's images


def small_patch(image_size: int) -> int:
    """The side of a small network's patches in pixels: 2 for images of up to 16 pixels, 4 up to 32, 8 up to 64 .."""
    patch = 2
    while image_size > MOST_TOKENS * patch:
        patch *= 2
    return patch


def tokens_per_side(image_size: int, patch: int) -> int:
    """Raises UserError if the image cannot be cut into whole patches."""
    if image_size < patch or image_size % patch:
        raise UserError(
            f"images of {image_size} pixels cannot be cut into patches of {patch}: choose another --arch or --pixels"
        )
    return image_size // patch


class PatchEmbedding(nn.Conv2d):
    """Images (B, C, H, W) -> tokens (B, N, width), row by row; the patches do not overlap."""

    def __init__(self, channels: int, width: int, patch: int):
        super().__init__(channels, width, patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).flatten(2).transpose(1, 2)


def perceptron(width: int, hidden: int) -> nn.Sequential:
    """Two linear layers with a GELU between them, over the last dimension."""
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
