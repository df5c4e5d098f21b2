"""Optimisers, by the recipe. Torch's fused kernels do one pass over memory; they exist on the CPU and on CUDA."""

from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from cifar.errors import InputError
from cifar.models.pretrained import Pretrained
from cifar.recipes import Recipe
from cifar.training.muon import Muon


def build_optimiser(recipe: Recipe, model: nn.Module) -> Optimizer:
    """The recipe's optimiser over the trainable parameters of a model that is already on its device."""
    if recipe.optimiser == "muon":
        groups = muon_groups(model, weight_decay=recipe.weight_decay, decay_all=recipe.decay_all)
    elif recipe.layer_decay < 1:
        groups = layered_groups(model, weight_decay=recipe.weight_decay, layer_decay=recipe.layer_decay)
    else:
        groups = parameter_groups(model, weight_decay=recipe.weight_decay, decay_all=recipe.decay_all)
    device = next(model.parameters()).device.type
    fused = device in ("cpu", "cuda")
    for group in groups:
        # The loop scales the initial rate by the schedule.
        group["lr"] = group["initial_lr"] = recipe.lr * float(group.pop("lr_scale", 1.0))  # type: ignore[arg-type]
    if recipe.optimiser == "muon":
        return Muon(groups, lr=recipe.lr, momentum=recipe.momentum)
    if recipe.optimiser == "sgd":
        return SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=fused)
    if recipe.optimiser == "adam":
        return Adam(groups, lr=recipe.lr, fused=fused)
    assert recipe.optimiser == "adamw", recipe.optimiser
    return AdamW(groups, lr=recipe.lr, fused=fused)


def parameter_groups(model: nn.Module, *, weight_decay: float, decay_all: bool) -> list[dict[str, object]]:
    """Parameters that decay and, unless `decay_all`, those of one dimension (biases, scales) that do not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decays = [parameter for parameter in parameters if decay_all or parameter.ndim > 1]
    spared = [parameter for parameter in parameters if not (decay_all or parameter.ndim > 1)]
    groups: list[dict[str, object]] = [{"params": decays, "weight_decay": weight_decay}]
    return [*groups, {"params": spared, "weight_decay": 0.0}] if spared else groups


def muon_groups(model: nn.Module, *, weight_decay: float, decay_all: bool) -> list[dict[str, object]]:
    """The matrices inside the network for Muon; for AdamW the head, as its author found best, and all the rest."""
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    matrices = {layer.weight for layer in layers[:-1] if layer.weight.requires_grad}
    groups = parameter_groups(model, weight_decay=weight_decay, decay_all=decay_all)
    rest = [{**group, "params": [p for p in group["params"] if p not in matrices]} for group in groups]  # type: ignore[attr-defined]
    ordered = [parameter for parameter in model.parameters() if parameter in matrices]
    inner: list[dict[str, object]] = [{"params": ordered, "weight_decay": weight_decay, "orthogonalise": True}]
    return inner + [{**group, "orthogonalise": False} for group in rest]


def layered_groups(model: nn.Module, *, weight_decay: float, layer_decay: float) -> list[dict[str, object]]:
    """Parameters of a timm network by depth, with "lr_scale" falling from 1 at the head (Clark et al. 2020, ELECTRA).

    Biases, scales and positions do not decay. What is frozen is left out.

    Raises:
        InputError: the network is none of timm's.
    """
    if not isinstance(model, Pretrained):
        raise InputError(
            f"layer_decay is {layer_decay}, but only previt and timm:NAME know their layers: leave it out."
        )
    from timm.optim import param_groups_layer_decay

    network: Any = model.network
    groups = param_groups_layer_decay(
        network,
        weight_decay=weight_decay,
        layer_decay=layer_decay,
        no_weight_decay_list=network.no_weight_decay() if hasattr(network, "no_weight_decay") else (),
    )
    return [{key: group[key] for key in ("params", "weight_decay", "lr_scale")} for group in groups]
