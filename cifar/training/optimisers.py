"""Optimisers, by the recipe. Torch's fused kernels do one pass over memory; they exist on the CPU and on CUDA."""

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from cifar.recipes import Recipe


def build_optimiser(recipe: Recipe, model: nn.Module) -> Optimizer:
    """The recipe's optimiser over the trainable parameters of a model that is already on its device."""
    groups = parameter_groups(model, weight_decay=recipe.weight_decay, decay_all=recipe.decay_all)
    device = next(model.parameters()).device.type
    fused = device in ("cpu", "cuda")
    for group in groups:
        group["initial_lr"] = recipe.lr  # the loop scales this by the schedule
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
