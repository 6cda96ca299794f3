"""MLP-Mixer (Tolstikhin et al., 2021): no convolution but the patches', layer normalization only.

The large one is the AWS paper's for ImageNet (table 2), smaller than those of the Mixer paper; the small one has a
usual size for CIFAR. Initialization is torch's default, so no bias starts at 0.
"""

from torch import Tensor, nn

from models.tokens import LARGE_PATCH, PatchEmbedding, perceptron, small_patch, tokens_per_side


class MixerBlock(nn.Module):
    """Mix every channel's tokens, then every token's channels; tokens are (B, N, width)."""

    def __init__(self, tokens: int, width: int, tokens_hidden: int, channels_hidden: int):
        super().__init__()
        self.norm1, self.mix_tokens = nn.LayerNorm(width), perceptron(tokens, tokens_hidden)
        self.norm2, self.mix_channels = nn.LayerNorm(width), perceptron(width, channels_hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.mix_tokens(self.norm1(tokens).transpose(1, 2)).transpose(1, 2)
        return tokens + self.mix_channels(self.norm2(tokens))


class MLPMixer(nn.Module):
    def __init__(
        self, classes: int, channels: int, image_size: int, patch: int, width: int, depth: int, tokens_hidden: int,
        channels_hidden: int,
    ):  # fmt: skip
        super().__init__()
        tokens = tokens_per_side(image_size, patch) ** 2
        self.embed = PatchEmbedding(channels, width, patch)
        blocks = [MixerBlock(tokens, width, tokens_hidden, channels_hidden) for _ in range(depth)]
        self.blocks, self.norm = nn.Sequential(*blocks), nn.LayerNorm(width)
        self.fc = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.norm(self.blocks(self.embed(images))).mean(dim=1))


def mlpmixer(classes: int, channels: int, image_size: int) -> nn.Module:
    """1.144 M parameters for 100 classes at 32 pixels."""
    return MLPMixer(
        classes, channels, image_size, small_patch(image_size), width=128, depth=8, tokens_hidden=64,
        channels_hidden=512,
    )  # fmt: skip


def mlpmixer_tiny(classes: int, channels: int, image_size: int) -> nn.Module:
    """0.033 M parameters for 10 classes at 14 pixels and one channel; not from a paper."""
    return MLPMixer(
        classes, channels, image_size, small_patch(image_size), width=32, depth=4, tokens_hidden=32, channels_hidden=64
    )


def mlpmixer_224(classes: int, channels: int, image_size: int) -> nn.Module:
    """7.787 M parameters for 1000 classes at 224 pixels; the tokens' hidden width is four times their number there."""
    return MLPMixer(
        classes, channels, image_size, LARGE_PATCH, width=512, depth=12, tokens_hidden=784, channels_hidden=256
    )
