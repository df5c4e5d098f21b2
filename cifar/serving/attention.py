"""Attention rollout: how much each patch contributes to a transformer's head.

Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers": attention and residual connections alone, as if
nothing else mixed the tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cifar.models.pretrained import Pretrained
from cifar.models.vit import VisionTransformer


def is_plain_transformer(network: Any) -> bool:
    """Whether a network of timm is a vision transformer whose attention `attention_maps` can recompute."""
    from timm.models.vision_transformer import Attention, VisionTransformer

    return (
        type(network) is VisionTransformer
        and all(type(getattr(block, "attn", None)) is Attention for block in network.blocks)
        and network.global_pool in ("token", "avg")
        and int(network.patch_embed.num_patches**0.5) ** 2 == network.patch_embed.num_patches
    )


def rollout_map(network: nn.Module, pixels: Tensor) -> Tensor:
    """How much each patch contributes to the head of a transformer.

    Args:
        network: this package's vision transformer or timm's, in evaluation mode.
        pixels: float [1, 3, 32, 32].

    Returns:
        float [H, W], one value per patch; their sum is at most 1.
    """
    flow = rollout(attention_maps(network, pixels))  # [T, T]
    if isinstance(network, Pretrained):
        timm_network: Any = network.network
        pooled = timm_network.pool(flow[None])[0]  # the head pools the rows as it pools tokens
        patches = pooled[timm_network.num_prefix_tokens :]  # after the class and register tokens
    else:
        patches = flow.mean(dim=0)
    side = round(len(patches) ** 0.5)
    heat: Tensor = patches.view(side, side)
    return heat


def attention_maps(network: nn.Module, pixels: Tensor) -> list[Tensor]:
    """The attention of every block, recomputed from its queries and keys, since fused kernels do not return it.

    Args:
        network: this package's vision transformer or timm's, in evaluation mode.
        pixels: float [1, 3, 32, 32].

    Returns:
        [heads, T, T] for each block in order; row i holds the weights with which token i attends to each token.
    """
    ours = isinstance(network, VisionTransformer)
    blocks: Any = network.blocks if ours else network.network.blocks  # type: ignore[union-attr]
    layers: list[Any] = [block.attention if ours else block.attn for block in blocks]
    projected: list[Tensor] = []
    handles = [
        layer.qkv.register_forward_hook(lambda _layer, _inputs, output: projected.append(output)) for layer in layers
    ]
    with torch.no_grad():
        network(pixels)
    for handle in handles:
        handle.remove()
    maps = []
    for layer, qkv in zip(layers, projected, strict=True):
        _, length, width = qkv.shape
        query, key, _ = qkv.view(length, 3, layer.num_heads, width // 3 // layer.num_heads).permute(1, 2, 0, 3)
        if not ours:
            query, key = layer.q_norm(query), layer.k_norm(key)  # [heads, T, d]; the identity in most networks
        maps.append((query @ key.mT * query.shape[-1] ** -0.5).softmax(dim=-1))
    return maps


def rollout(maps: Sequence[Tensor]) -> Tensor:
    """How much of each input token is in each output token, if attention were all that mixes them.

    Each block is the mean of its heads, averaged with the identity for the residual connection; the blocks multiply.

    Args:
        maps: [heads, T, T] for each block in order, rows sum to 1.

    Returns:
        [T, T], rows sum to 1; row i is output token i.
    """
    identity = torch.eye(maps[0].shape[-1], dtype=maps[0].dtype, device=maps[0].device)
    flow = identity
    for attention in maps:
        flow = (attention.mean(dim=0) + identity) / 2 @ flow
    return flow
