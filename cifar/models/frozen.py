"""A pretrained network in two parts: a frozen part, computed once per image, and a trainable end.

The end is the head, or the last blocks of a transformer and the head. Both parts share the network's parameters: the
whole network is saved, and evaluated on images.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cifar.errors import InputError
from cifar.models.pretrained import Pretrained


class FrozenPart(nn.Module):
    """Pixels [N, 3, 32, 32] to the input of the trainable end: pooled features [N, D], or tokens [N, T, D].

    Args:
        model: the whole network.
        train_blocks: number of blocks in the trainable end; 0 is the head alone.
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
        return torch.cat([others, patches], dim=1)  # [N, T, D]: class and register tokens, then the patches


class TrainableEnd(nn.Module):
    """The output of `FrozenPart` to logits [N, 10]; arguments as there."""

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
    """The network that is called in training: its end; for -1 the whole network.

    Args:
        model: the whole network.
        train_blocks: of the recipe: -1 is all, 0 the head.
    """
    if train_blocks < 0:
        return model
    assert isinstance(model, Pretrained), type(model)
    return TrainableEnd(model, train_blocks)


def freeze(model: nn.Module, train_blocks: int) -> None:
    """Freeze all of a network but its end.

    Args:
        model: a network of timm; any network for -1.
        train_blocks: number of blocks in the trainable end; 0 is the head alone, -1 freezes nothing.

    Raises:
        InputError: the network has no such end: it is not of timm, or has too few blocks or several heads.
    """
    if train_blocks < 0:
        return
    refusal = f"train_blocks is {train_blocks}, but"
    if not isinstance(model, Pretrained):
        raise InputError(f"{refusal} only previt and timm:NAME have a frozen part: leave it out.")
    network: Any = model.network
    head = network.get_classifier()
    if not isinstance(head, nn.Module) or isinstance(head, nn.ModuleList):
        raise InputError(f"{refusal} this network has several heads, which are trained together: leave it out.")
    blocks: Any = getattr(network, "blocks", ())
    if train_blocks > 0 and not (len(blocks) and hasattr(network, "forward_intermediates")):
        raise InputError(f"{refusal} this network is not made of blocks: only 0, the head, is possible.")
    if train_blocks > 0 and train_blocks >= len(blocks):
        raise InputError(f"{refusal} this network has {len(blocks)} blocks: choose fewer, or -1 to train all.")
    network.requires_grad_(False)
    parts = [head]
    if train_blocks > 0:
        parts += [*blocks[-train_blocks:], network.norm, network.fc_norm]
    for part in parts:
        part.requires_grad_(True)
