"""Vision transformers (Dosovitskiy et al., 2021) in the plain form of Beyer, Zhai and Kolesnikov (2022): mean pooling
and fixed positions of sines and cosines, so that every learned parameter is a weight, a bias or a normalization's.

The large one is ViT-S/16; the small one has the size of Lee, Lee and Song (2021) for CIFAR and Tiny-ImageNet.
Initialization is torch's default, the head's too: torchvision starts the head and several biases at 0, whose signs
could not be transferred.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.tokens import LARGE_PATCH, PatchEmbedding, perceptron, small_patch, tokens_per_side

LONGEST_PERIOD = 10_000  # of the positions' waves, over 2π tokens


class Attention(nn.Module):
    """Self-attention over tokens (B, N, width), with queries, keys and values packed in one linear layer.

    Not torch's MultiheadAttention, which takes another way through evaluations than through training, with other last
    bits, and starts its biases at 0.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj, self.out_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        packed = self.in_proj(tokens).unflatten(-1, (3, self.heads, -1))
        queries, keys, values = packed.permute(2, 0, 3, 1, 4)  # each (B, heads, N, width of a head)
        attended = F.scaled_dot_product_attention(queries, keys, values)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class EncoderBlock(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), perceptron(width, hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


def sine_positions(side: int, width: int) -> Tensor:
    """(side², width): sines and cosines of a token's column, then of its row, a quarter of the width each, with periods
    from 2π tokens to ``LONGEST_PERIOD`` times that."""
    frequencies = LONGEST_PERIOD ** -torch.linspace(0, 1, width // 4)
    angles = torch.arange(side)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns, rows = waves.repeat(side, 1), waves.repeat_interleave(side, dim=0)
    return torch.cat([columns, rows], dim=1)


class VisionTransformer(nn.Module):
    def __init__(
        self, classes: int, channels: int, image_size: int, patch: int, width: int, depth: int, heads: int, hidden: int
    ):
        super().__init__()
        self.embed = PatchEmbedding(channels, width, patch)
        self.register_buffer("positions", sine_positions(tokens_per_side(image_size, patch), width))
        self.blocks = nn.Sequential(*(EncoderBlock(width, heads, hidden) for _ in range(depth)))
        self.norm, self.fc = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.blocks(self.embed(images) + self.positions)
        return self.fc(self.norm(tokens).mean(dim=1))


def vit(classes: int, channels: int, image_size: int) -> nn.Module:
    """2.702 M parameters for 100 classes at 32 pixels."""
    return VisionTransformer(
        classes, channels, image_size, small_patch(image_size), width=192, depth=9, heads=12, hidden=384
    )


def vit_224(classes: int, channels: int, image_size: int) -> nn.Module:
    """ViT-S/16: 21.975 M parameters for 1000 classes."""
    return VisionTransformer(classes, channels, image_size, LARGE_PATCH, width=384, depth=12, heads=6, hidden=1536)
