"""A vision transformer trained from scratch (Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words").

Its patches come from a small stack of convolutions instead of one patch projection (Xiao et al. 2021, "Early
Convolutions Help Transformers See Better"). Blocks normalise before each branch, positions are learned, and the head
sees the mean of all tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar.models.layers import Normalise

PATCH = 4  # pixels a side: 64 tokens an image


class Attention(nn.Module):
    """Multi-head self-attention: every token takes a weighted mean of all tokens' values.

    Args:
        width: numbers a token.
        num_heads: the width must divide by it.
    """

    def __init__(self, width: int, *, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        num, length, width = tokens.shape
        qkv = self.qkv(tokens).view(num, length, 3, self.num_heads, width // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind()  # each [N, heads, T, width / heads]
        mixed = attend(query, key, value)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(num, length, width))
        return out  # [N, T, width]


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention: of [N, heads, T, D] each, [N, heads, T, D].

    PyTorch's fused kernel spares a GPU the [T, T] matrices. On a CPU they fit the cache, and the kernel's backward pass
    in bf16 took half of a whole training step (`docs/log.md`).
    """
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value)
    weights = (query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)).softmax(-1)  # [N, heads, T, T]
    mixed: Tensor = weights @ value
    return mixed


class SkipBranch(nn.Module):
    """Stochastic depth: in training, drop the branch for some images, scale it up for others (Huang et al. 2016)."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return branch
        kept = branch.new_empty(len(branch), 1, 1).bernoulli_(1 - self.probability)
        return branch * (kept / (1 - self.probability))

    def extra_repr(self) -> str:
        return f"probability={self.probability}"


class Block(nn.Module):
    """Attention, then a two-layer perceptron, each normalised before and added to what came in."""

    def __init__(self, width: int, *, num_heads: int, mlp_ratio: float, dropout: float, drop_path: float) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads=num_heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width))
        self.dropout = nn.Dropout(dropout)
        self.skip = SkipBranch(drop_path)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.skip(self.dropout(self.attention(self.norm1(tokens))))
        branch: Tensor = self.skip(self.dropout(self.mlp(self.norm2(tokens))))  # [N, T, width]
        return tokens + branch


class VisionTransformer(nn.Module):
    """Patches, positions, blocks, the mean token, a linear head.

    Args:
        width: numbers a token.
        depth: blocks.
        num_heads: attention heads; the width must divide by it.
        mlp_ratio: hidden units of a block's perceptron, as a multiple of the width.
        plain: one patch projection in place of the convolutional stem.
        dropout: probability of dropping an activation after positions, attention and in the perceptrons.
        drop_path: probability of skipping a branch of the last block; it rises to that from 0 at the first.
    """

    def __init__(
        self, width: int, *, depth: int, num_heads: int, mlp_ratio: float = 2.0, plain: bool = False,
        dropout: float = 0.0, drop_path: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.normalise = Normalise()
        self.patches = nn.Conv2d(3, width, PATCH, stride=PATCH) if plain else convolutional_stem(width)
        self.positions = nn.Parameter(torch.empty(1, (32 // PATCH) ** 2, width))
        self.dropout = nn.Dropout(dropout)
        skips = [drop_path * index / max(1, depth - 1) for index in range(depth)]
        self.blocks = nn.Sequential(
            *(Block(width, num_heads=num_heads, mlp_ratio=mlp_ratio, dropout=dropout, drop_path=skip) for skip in skips)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)
        self.reset()

    def reset(self) -> None:
        """Draw the weights: truncated normals of deviation 0.02, and He et al.'s for the convolutions."""
        nn.init.trunc_normal_(self.positions, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(self.normalise(images))  # [N, width, 8, 8]
        tokens = patches.flatten(2).transpose(1, 2)  # [N, 64, width]
        positions: Tensor = self.positions
        tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
        if not tracing:  # by PyTorch's former exporter, to which sizes are tensors; what it exports has one size
            positions = positions_for(positions, patches.shape[-1])
        tokens = self.blocks(self.dropout(tokens + positions))
        logits: Tensor = self.head(self.norm(tokens).mean(1))
        return logits


def positions_for(positions: Tensor, side: int) -> Tensor:
    """Positions for images of another size than they were learned at: interpolated, as Dosovitskiy et al. do.

    Args:
        positions: [1, T, width] of a square of T patches.
        side: patches a side of the images at hand.

    Returns:
        [1, side², width].
    """
    learned = round(positions.shape[1] ** 0.5)
    if side == learned:
        return positions
    grid = positions.mT.reshape(1, -1, learned, learned)  # [1, width, 8, 8]
    return F.interpolate(grid, (side, side), mode="bicubic", antialias=True).flatten(2).mT


def convolutional_stem(width: int) -> nn.Sequential:
    """Three 3×3 convolutions, two of which halve the side, and a 1×1: [N, 3, 32, 32] → [N, width, 8, 8]."""
    widths = (3, width // 4, width // 2, width)
    layers: list[nn.Module] = []
    for num_in, num_out, stride in zip(widths, widths[1:], (1, 2, 2), strict=False):
        layers.append(nn.Conv2d(num_in, num_out, 3, stride=stride, padding=1, bias=False))
        layers += [nn.BatchNorm2d(num_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(width, width, 1))


def vit(*, dropout: float = 0.0, drop_path: float = 0.0) -> VisionTransformer:
    """The default: 6 blocks of width 128, 4 heads."""
    return VisionTransformer(128, depth=6, num_heads=4, dropout=dropout, drop_path=drop_path)


def vit_patch(*, dropout: float = 0.0, drop_path: float = 0.0) -> VisionTransformer:
    """The default's blocks on one projection of 4×4 patches, as in the original paper."""
    return VisionTransformer(128, depth=6, num_heads=4, plain=True, dropout=dropout, drop_path=drop_path)


def vit_tiny(*, dropout: float = 0.0, drop_path: float = 0.0) -> VisionTransformer:
    """4 blocks of width 64, 2 heads: for trying things."""
    return VisionTransformer(64, depth=4, num_heads=2, dropout=dropout, drop_path=drop_path)


def vit_medium(*, dropout: float = 0.0, drop_path: float = 0.0) -> VisionTransformer:
    """9 blocks of width 192, 6 heads."""
    return VisionTransformer(192, depth=9, num_heads=6, dropout=dropout, drop_path=drop_path)


def vit_large(*, dropout: float = 0.0, drop_path: float = 0.0) -> VisionTransformer:
    """12 blocks of width 384, 6 heads and a perceptron of four times the width: for a GPU."""
    return VisionTransformer(384, depth=12, num_heads=6, mlp_ratio=4.0, dropout=dropout, drop_path=drop_path)
