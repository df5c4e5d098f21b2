"""A pretrained network in two parts: a frozen one, computed once for every image, and a trainable end.

The end is the head, or the last blocks of a transformer and the head. Both parts share the network's own parameters, so
that the whole network is what gets saved, and what is evaluated on images.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cifar.errors import InputError
from cifar.models.pretrained import Pretrained


class FrozenPart(nn.Module):
    """Pixels [N, 3, 32, 32] to what the trainable end takes: pooled features [N, D], or tokens [N, T, D].

    Args:
        model: the whole network.
        train_blocks: blocks in the trainable end; 0 is the head alone.
    """

    def __init__(self, model: Pretrained, train_blocks: int) -> None:
        super().__init__()
        self.model = model
        self.train_blocks = train_blocks

    def forward(self, images: Tensor) -> Tensor:
        network: Any = self.model.network
        enlarged = self.model.enlarge(images)
        if self.train_blocks == 0:
            features: Tensor = network.forward_head(network.forward_features(enlarged), pre_logits=True)
            return features  # [N, D]
        last_frozen = len(network.blocks) - self.train_blocks - 1
        patches, others = network.forward_intermediates(
            enlarged, indices=[last_frozen], return_prefix_tokens=True, stop_early=True, output_fmt="NLC",
            intermediates_only=True,
        )[0]  # fmt: skip
        return torch.cat([others, patches], dim=1)  # [N, T, D]: class and register tokens stand before the patches


class TrainableEnd(nn.Module):
    """What `FrozenPart` gives to logits [N, 10]; arguments as there."""

    def __init__(self, model: Pretrained, train_blocks: int) -> None:
        super().__init__()
        self.model = model
        self.train_blocks = train_blocks

    def forward(self, activations: Tensor) -> Tensor:
        network: Any = self.model.network
        if self.train_blocks == 0:
            logits: Tensor = network.get_classifier()(activations)
        else:
            for block in network.blocks[-self.train_blocks :]:
                activations = block(activations)
            logits = network.forward_head(network.norm(activations))
        return logits


def trainable_end(model: nn.Module, train_blocks: int) -> nn.Module:
    """What is called in training: the whole network for -1, else its end."""
    if train_blocks < 0:
        return model
    assert isinstance(model, Pretrained), type(model)
    return TrainableEnd(model, train_blocks)


def freeze(model: nn.Module, train_blocks: int) -> None:
    """Let only the end of a network be trained.

    Raises:
        InputError: a network that has no such end: not of timm, or with fewer blocks.
    """
    if train_blocks < 0:
        return
    refusal = f"train_blocks is {train_blocks}, but"
    if not isinstance(model, Pretrained):
        raise InputError(f"{refusal} only previt and timm:NAME have a frozen part: leave it out.")
    network: Any = model.network
    blocks: Any = getattr(network, "blocks", ())
    if train_blocks > 0 and not (len(blocks) and hasattr(network, "forward_intermediates")):
        raise InputError(f"{refusal} this network is not made of blocks: only 0, the head, is possible.")
    if train_blocks > 0 and train_blocks >= len(blocks):
        raise InputError(f"{refusal} this network has {len(blocks)} blocks: choose fewer, or -1 to train all.")
    network.requires_grad_(False)
    parts = [network.get_classifier()]
    if train_blocks > 0:
        parts += [*blocks[-train_blocks:], network.norm, network.fc_norm]
    for part in parts:
        part.requires_grad_(True)
