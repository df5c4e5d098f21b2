"""Attention rollout: what reaches a transformer's head of every patch (Abnar and Zuidema 2020).

"Quantifying Attention Flow in Transformers": attention alone, with the residual connections, as if nothing else mixed
the tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cifar.models.pretrained import Pretrained
from cifar.models.vit import VisionTransformer


def is_plain_transformer(network: Any) -> bool:
    """Whether a network of timm is the vision transformer whose attention `attention_maps` can recompute."""
    from timm.models.vision_transformer import Attention, VisionTransformer

    return (
        type(network) is VisionTransformer
        and all(type(getattr(block, "attn", None)) is Attention for block in network.blocks)
        and network.global_pool in ("token", "avg")
        and int(network.patch_embed.num_patches**0.5) ** 2 == network.patch_embed.num_patches
    )


def rollout_map(network: nn.Module, pixels: Tensor) -> Tensor:
    """How much of each patch reaches the head of a transformer: float [H, W], of at most 1 in all."""
    flow = rollout(attention_maps(network, pixels))  # [T, T]
    if isinstance(network, Pretrained):
        timm_network: Any = network.network
        reached = timm_network.pool(flow[None])[0]  # the rows that the head reads, as it reads them
        patches = reached[timm_network.num_prefix_tokens :]  # class and register tokens stand before them
    else:
        patches = flow.mean(dim=0)
    side = round(len(patches) ** 0.5)
    heat: Tensor = patches.view(side, side)
    return heat


def attention_maps(network: nn.Module, pixels: Tensor) -> list[Tensor]:
    """The attention of every block, recomputed from its queries and keys, since the fused kernels do not give it.

    Args:
        network: our vision transformer or timm's, in evaluation mode.
        pixels: float [1, 3, 32, 32].

    Returns:
        a block each, the first one first: [heads, T, T], rows sum to 1; row i is what token i takes from each token.
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
        parts = qkv.view(length, 3, layer.num_heads, width // 3 // layer.num_heads).permute(1, 2, 0, 3)
        query, key = parts[0], parts[1]  # [heads, T, d]
        if not ours:
            query, key = layer.q_norm(query), layer.k_norm(key)  # identities in most
        maps.append((query @ key.mT * query.shape[-1] ** -0.5).softmax(dim=-1))
    return maps


def rollout(maps: Sequence[Tensor]) -> Tensor:
    """How much of every token at the input is in every token at the output, if attention were all that mixes them.

    The mean over the heads, half of it and half
    the token itself for the residual connection, multiplied from block to block.

    Args:
        maps: a block each, [heads, T, T], rows sum to 1.

    Returns:
        [T, T], rows sum to 1.
    """
    itself = torch.eye(maps[0].shape[-1], dtype=maps[0].dtype, device=maps[0].device)
    flow = itself
    for attention in maps:
        flow = (attention.mean(dim=0) + itself) / 2 @ flow
    return flow
