"""Optimisers, by the recipe. Torch's fused kernels do one pass over memory; they exist on the CPU and on CUDA."""

from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from cifar.errors import InputError
from cifar.models.pretrained import Pretrained
from cifar.models.speednet import SpeedNet
from cifar.recipes import Recipe
from cifar.training.muon import Muon


def build_optimiser(recipe: Recipe, model: nn.Module) -> Optimizer:
    """The recipe's optimiser over the trainable parameters of a model that is already on its device."""
    if recipe.optimiser == "muon":
        groups = muon_groups(recipe, model)
    elif recipe.optimiser == "muon-sgd":
        groups = unit_groups(recipe, model)
    elif recipe.layer_decay < 1:
        groups = layered_groups(model, weight_decay=recipe.weight_decay, layer_decay=recipe.layer_decay)
    else:
        groups = parameter_groups(model, weight_decay=recipe.weight_decay, decay_all=recipe.decay_all)
    device = next(model.parameters()).device.type
    fused = device in ("cpu", "cuda")
    for group in groups:
        # The loop scales the initial rate by the schedule.
        group.setdefault("lr", recipe.lr * float(group.pop("lr_scale", 1.0)))  # type: ignore[arg-type]
        group["initial_lr"] = group["lr"]
    if recipe.optimiser in ("muon", "muon-sgd"):
        return Muon(groups, lr=recipe.lr, steps=recipe.muon_steps)
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


def muon_groups(recipe: Recipe, model: nn.Module) -> list[dict[str, object]]:
    """The matrices inside the network for Muon; for AdamW the head, as its author found best, and all the rest."""
    matrices, _ = matrices_and_head(model)
    rest = parameter_groups(model, weight_decay=recipe.weight_decay, decay_all=recipe.decay_all)
    inner = {"params": matrices, "kind": "muon", "weight_decay": recipe.weight_decay, "momentum": recipe.momentum}
    return [inner, *({**group, "params": without(group["params"], matrices), "kind": "adamw"} for group in rest)]


def unit_groups(recipe: Recipe, model: nn.Module) -> list[dict[str, object]]:
    """Matrices of a fixed norm for Muon; for SGD, at their own rates, the head, the biases and speednet's whitening.

    Decay is the share of a weight that is lost in a step at the highest rate.
    """
    matrices, head = matrices_and_head(model)
    early = [model.whitening.bias] if isinstance(model, SpeedNet) and recipe.whitening_epochs else []
    others = [parameter for parameter in model.parameters() if parameter.requires_grad]
    others = without(others, [*matrices, *head, *early])
    groups: list[dict[str, object]] = [{"params": matrices, "kind": "muon-unit", "momentum": recipe.momentum}]
    for parameters, lr, epochs in (
        (head, recipe.head_lr or recipe.lr, 0),
        (others, recipe.bias_lr or recipe.lr, 0),
        (early, recipe.bias_lr or recipe.lr, recipe.whitening_epochs),
    ):
        if parameters:
            groups.append(
                {
                    "params": parameters,
                    "kind": "sgd",
                    "lr": lr,
                    "momentum": recipe.rest_momentum,
                    "weight_decay": recipe.weight_decay / lr,
                    "epochs": epochs,
                }
            )
    return groups


def freeze_finished(optimiser: Any, *, epoch: int) -> None:
    """Take no more gradients for parameters whose epochs are over: nothing below them then needs a backward pass.

    Args:
        optimiser: of torch or Fabric; groups may hold "epochs", that they are trained for; 0 is all.
        epoch: that begins, from 0.
    """
    for group in optimiser.param_groups:
        if 0 < group.get("epochs", 0) <= epoch:
            for parameter in group["params"]:
                parameter.requires_grad_(False)
                parameter.grad = None


def matrices_and_head(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable weights of convolutions and linear layers, without that of the last layer; and that one."""
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    weights: list[Any] = [layer.weight for layer in layers if layer.weight.requires_grad]
    return weights[:-1], weights[-1:]


def without(parameters: Any, others: list[nn.Parameter]) -> list[nn.Parameter]:
    """Parameters that are none of the others, in their order."""
    taken = {id(parameter) for parameter in others}
    return [parameter for parameter in parameters if id(parameter) not in taken]


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
