"""Optimisers, by the recipe. PyTorch's fused kernels pass over memory once; they exist on the CPU and on CUDA."""

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from cifar.errors import InputError
from cifar.models.pretrained import Pretrained
from cifar.models.speednet import SpeedNet
from cifar.recipes.schema import Optimiser
from cifar.training.muon import Muon

Group = dict[str, Any]


def build_optimiser(recipe: Optimiser, model: nn.Module) -> Optimizer:
    """The recipe's optimiser over the trainable parameters of a model that is already on its device.

    Every parameter group has "initial_lr", its peak learning rate, which the loop multiplies by the schedule.

    Raises:
        InputError: the recipe has layer_decay, and the model does not know its layers.
    """
    keep_compiler_out()
    if recipe.kind == "muon":
        groups = muon_groups(recipe, model)
    elif recipe.kind == "muon-sgd":
        groups = unit_norm_groups(recipe, model)
    elif recipe.layer_decay < 1:
        groups = layer_decay_groups(model, weight_decay=recipe.weight_decay, layer_decay=recipe.layer_decay)
    else:
        groups = parameter_groups(model, weight_decay=recipe.weight_decay, decay_all=recipe.decay_all)
    for group in groups:
        group.setdefault("lr", recipe.lr * group.pop("lr_scale", 1.0))
        group["initial_lr"] = group["lr"]
    fused = all(one.device.type in ("cpu", "cuda") and one.is_floating_point() for one in model.parameters())
    optimiser: Optimizer
    if recipe.kind in ("muon", "muon-sgd"):
        optimiser = Muon(groups, lr=recipe.lr, steps=recipe.muon_steps)
    elif recipe.kind == "sgd":
        options = {"momentum": recipe.momentum, "nesterov": recipe.nesterov}
        optimiser = eager(SGD)(groups, lr=recipe.lr, fused=fused, **options)
    else:
        optimiser = eager({"adam": Adam, "adamw": AdamW}[recipe.kind])(groups, lr=recipe.lr, fused=fused)
    return optimiser


def keep_compiler_out() -> None:
    """Let methods of optimisers run without importing PyTorch's compiler, which takes a second.

    PyTorch excludes them from compilation when they are first called; they stand outside what we compile.
    """
    for method in (Optimizer.add_param_group, Optimizer.zero_grad, Optimizer.state_dict, Optimizer.load_state_dict):
        function = getattr(method, "__wrapped__", None)
        if function is not None and not hasattr(function, "__dynamo_disable"):
            function.__dynamo_disable = function


def eager(kind: type[Optimizer]) -> Any:
    """One of PyTorch's optimisers with the same step, without the import of the compiler that stands before it."""
    return type(kind.__name__, (kind,), {"step": torch.no_grad()(inspect.unwrap(kind.step))})


def parameter_groups(model: nn.Module, *, weight_decay: float, decay_all: bool) -> list[Group]:
    """Parameters with weight decay and, unless `decay_all`, those of one dimension (biases, scales) without it.

    Args:
        model: whose trainable parameters are meant.
        weight_decay: of the first group.
        decay_all: whether biases and scales decay as well.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in parameters if decay_all or parameter.ndim > 1]
    undecayed = [parameter for parameter in parameters if not (decay_all or parameter.ndim > 1)]
    groups: list[Group] = [{"params": decayed, "weight_decay": weight_decay}]
    return [*groups, {"params": undecayed, "weight_decay": 0.0}] if undecayed else groups


def muon_groups(recipe: Optimiser, model: nn.Module) -> list[Group]:
    """Weight matrices inside the network for Muon; the head, as Muon's author found best, and the rest for AdamW.

    Args:
        recipe: its optimiser group.
        model: float pixels [N, 3, 32, 32] to logits.
    """
    matrices, _ = matrices_and_head(model)
    rest = parameter_groups(model, weight_decay=recipe.weight_decay, decay_all=recipe.decay_all)
    inner = {
        "params": matrices, "kind": "muon", "weight_decay": recipe.weight_decay, "momentum": recipe.momentum
    }  # fmt: skip
    return [inner, *({**group, "params": without(group["params"], matrices), "kind": "adamw"} for group in rest)]


def unit_norm_groups(recipe: Optimiser, model: nn.Module) -> list[Group]:
    """Matrices of a fixed norm for Muon; for SGD, at their own rates, the head, the biases and speednet's whitening.

    Weight decay is the fraction of a weight that is lost in a step at the peak learning rate.

    Args:
        recipe: its optimiser group.
        model: float pixels [N, 3, 32, 32] to logits.
    """
    matrices, head = matrices_and_head(model)
    whitening = [model.whitening.bias] if isinstance(model, SpeedNet) and recipe.whitening_epochs else []
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rest = without(trainable, [*matrices, *head, *whitening])
    groups: list[Group] = [{"params": matrices, "kind": "muon-unit", "momentum": recipe.momentum}]
    for parameters, lr, train_epochs in (
        (head, recipe.head_lr or recipe.lr, 0),
        (rest, recipe.bias_lr or recipe.lr, 0),
        (whitening, recipe.bias_lr or recipe.lr, recipe.whitening_epochs),
    ):
        if parameters:
            groups.append({
                "params": parameters, "kind": "sgd", "lr": lr, "momentum": recipe.rest_momentum,
                "weight_decay": recipe.weight_decay / lr, "train_epochs": train_epochs,
            })  # fmt: skip
    return groups


def freeze_finished(optimiser: Optimizer, *, epoch: int) -> int:
    """Take no more gradients for parameters whose epochs are over: nothing below them then needs a backward pass.

    Args:
        optimiser: whose groups may hold "train_epochs", which they are trained for; 0 is all.
        epoch: that begins, from 0.

    Returns:
        how many groups are finished.
    """
    finished = [group for group in optimiser.param_groups if 0 < group.get("train_epochs", 0) <= epoch]
    for group in finished:
        for parameter in group["params"]:
            parameter.requires_grad_(False)
            parameter.grad = None
    return len(finished)


def rates_on_device(optimiser: Optimizer) -> None:
    """Give every parameter group a tensor for its rate, where its parameters lie, which a captured step can change.

    Adam and AdamW let themselves be captured from then on; a checkpoint of another device would say otherwise.
    """
    for group in optimiser.param_groups:
        if "capturable" in group:
            group["capturable"] = True
        group["lr"] = torch.tensor(group["lr"], dtype=torch.float32, device=group["params"][0].device)


def set_rates(optimiser: Optimizer, rates: Tensor) -> None:
    """Set the learning rate of every parameter group.

    Args:
        optimiser: whose rates are numbers, or tensors (`rates_on_device`).
        rates: [G].
    """
    tensors = [group["lr"] for group in optimiser.param_groups]
    if isinstance(tensors[0], Tensor):
        torch._foreach_copy_(tensors, list(rates.unbind()))
        return
    for group, rate in zip(optimiser.param_groups, rates.tolist(), strict=True):
        group["lr"] = rate


def optimiser_values(optimiser: Optimizer) -> dict[str, Any]:
    """The state of an optimiser as a checkpoint holds it, with numbers for rates whatever the device."""
    values = optimiser.state_dict()
    for group in values["param_groups"]:
        group["lr"] = float(group["lr"])
    return values


def matrices_and_head(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable weights of convolutions and linear layers but the head's, in the order of their definition; the head's.

    The head is the layer that computes the logits, which one image through the network tells; the order of definition
    does not.

    Raises:
        InputError: there is no such layer.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    if not layers:
        raise InputError("This network has no convolution or linear layer for muon: give --set optimiser=adamw.")
    head = head_of(model, layers)
    trained = (layer.weight for layer in layers if layer.weight.requires_grad)
    weights: list[Any] = list({id(weight): weight for weight in trained}.values())  # some layers share theirs
    return without(weights, [head.weight]), [weight for weight in weights if weight is head.weight]


def head_of(model: nn.Module, layers: Sequence[nn.Module]) -> Any:
    """The last of these layers that is called when the network sees an image; it is not trained by that.

    Args:
        model: float pixels [N, 3, 32, 32] to logits.
        layers: with weights, at least one.
    """
    called: list[nn.Module] = []
    handles = [layer.register_forward_hook(lambda layer, _inputs, _output: called.append(layer)) for layer in layers]
    training = [(module, module.training) for module in model.modules()]
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, 32, 32, device=device))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training:
            module.training = mode
    return called[-1] if called else layers[-1]


def without(parameters: Iterable[nn.Parameter], excluded: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Parameters but the excluded ones, in their order."""
    identities = {id(parameter) for parameter in excluded}
    return [parameter for parameter in parameters if id(parameter) not in identities]


def layer_decay_groups(model: nn.Module, *, weight_decay: float, layer_decay: float) -> list[Group]:
    """Parameters of a timm network by depth, with "lr_scale" falling from 1 at the head (Clark et al. 2020, ELECTRA).

    Biases, scales and positions have no weight decay. Frozen parameters are left out.

    Args:
        model: a network of timm.
        weight_decay: of matrices and filters.
        layer_decay: factor from a block to the one below it.

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
