"""All networks by name, and the function that builds them.

Each is an `nn.Module` from float pixels in [0, 1], [N, 3, 32, 32], to [N, 10] logits; normalisation is its first layer.
"timm:NAME" is any model of timm, and "package.module:function" a function of the user's.
"""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cifar.errors import InputError
from cifar.models.cnn import cnn
from cifar.models.layers import Normalise
from cifar.models.matching import load_matching
from cifar.models.onnx_weights import PACKAGED
from cifar.models.own import call_factory, check_trust, find_function
from cifar.models.pretrained import SIDE, Pretrained, build_timm, previt
from cifar.models.resnet import resnet18, resnet20, resnet32, resnet44, resnet56, resnet110
from cifar.models.speednet import SpeedNet, speednet, speednet_large, speednet_narrow
from cifar.models.trial import check_contract, check_training
from cifar.models.vit import vit, vit_large, vit_medium, vit_patch, vit_tiny
from cifar.models.weights import read_weights
from cifar.recipes import Network, Recipe
from cifar.recipes.names import check_name, is_own

FACTORIES: dict[str, Callable[..., nn.Module]] = {  # by the names in `cifar.recipes.names`
    "cnn": cnn,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet44": resnet44,
    "resnet56": resnet56,
    "resnet110": resnet110,
    "resnet18": resnet18,
    "vit": vit,
    "vit-patch": vit_patch,
    "vit-tiny": vit_tiny,
    "vit-medium": vit_medium,
    "vit-large": vit_large,
    "speednet": speednet,
    "speednet-narrow": speednet_narrow,
    "speednet-large": speednet_large,
    "previt": previt,
}

OPTIONS = ("model_name", "weights", "image_size", "pool", "dropout", "drop_path")  # of Network, that a network may take


def is_pretrained(recipe: Recipe) -> bool:
    """Whether the recipe's network starts from pretrained weights."""
    return recipe.model == "previt" or bool(recipe.network.weights)


def is_of_timm(recipe: Recipe) -> bool:
    """Whether the recipe's network is one of timm's."""
    return recipe.model == "previt" or recipe.model.startswith("timm:")


def build_model(
    recipe: Recipe, *, pretrained: bool = True, for_training: bool = False, trust_code: bool = False
) -> nn.Module:
    """Build the network that a recipe names, randomly initialised or with pretrained weights.

    Args:
        recipe: its model, network options and, for smaller images in early epochs, their size.
        pretrained: false where the weights of a run will be loaded, so that none need be found: changes no shape.
        for_training: whether a network that is not this package's is tried in a step of training as well.
        trust_code: import and run the user's function, if the recipe names one.

    Raises:
        InputError: no such network, an option or image size that it does not take, code that is not trusted, or a
            network that breaks the contract.
        WorldError: pretrained weights cannot be had.
    """
    name, weights = recipe.model, recipe.network.weights
    of_run = bool(weights) and weights != PACKAGED and Path(weights).is_dir()  # with sizes and statistics of its own
    check_name(name)
    factory = factory_of(recipe, pretrained=pretrained and not of_run, trust_code=trust_code)
    values = {field: getattr(recipe.network, field) for field in OPTIONS}
    options = {field: value for field, value in values.items() if value != getattr(Network(), field)}
    takes_weights = "weights" in inspect.signature(factory).parameters and not of_run
    if not takes_weights:
        options.pop("weights", None)
    check_options(factory, options, name=name)
    if is_own(name):
        build = functools.partial(call_factory, factory, options, name=name)
    else:
        build = functools.partial(factory, **options)
    model: nn.Module = build()
    if pretrained and not weights and name.startswith("timm:"):
        check_tag(name)
    if name not in FACTORIES:
        check_contract(model, name=name, build=build)
    if weights and pretrained and not takes_weights:
        load_matching(model, read_weights(Path(weights)), name=name, origin=weights)
    if name not in FACTORIES and for_training:
        check_training(
            model, name=name, build=build, num_images=min(recipe.batch_size, 2), averaged=recipe.ema_decay > 0
        )
    early_size = recipe.augment.early_image_size
    if early_size:
        check_early_size(model, early_size, name=name)
    return model


def factory_of(recipe: Recipe, *, pretrained: bool, trust_code: bool) -> Callable[..., Any]:
    """The function that builds a recipe's network from its options; arguments and errors as of `build_model`."""
    name, early_size = recipe.model, recipe.augment.early_image_size
    if name == "previt":
        return functools.partial(previt, pretrained=pretrained, other_image_size=early_size)
    if name in FACTORIES:
        return FACTORIES[name]
    if is_own(name):
        check_trust(name, trust_code=trust_code)
        return find_function(name)
    of_timm = name.partition(":")[2]
    # Without weights it starts at random: then nothing is known of a size or of statistics that it expects.
    known = bool(recipe.network.weights)
    return functools.partial(
        build_timm, of_timm, pretrained=known and pretrained, size_of_weights=known, other_image_size=early_size
    )


def check_tag(name: str) -> None:
    """Refuse a name of timm that names pretrained weights too, where none are loaded: it would start at random.

    Args:
        name: "timm:" and a name that timm knows.

    Raises:
        InputError: names the ways to load the weights, and to start at random.
    """
    architecture, _, tag = name.removeprefix("timm:").partition(".")
    if tag:
        raise InputError(
            f"{name} names the pretrained weights {tag}: give -m previt --set model_name={architecture}.{tag} to load "
            f"them from the hub, --weights FILE to load them from a file, or -m timm:{architecture} to start at random."
        )


def check_early_size(model: nn.Module, size: int, *, name: str) -> None:
    """Refuse a size of images that a network does not take as it is, which one forward pass finds out.

    Args:
        model: a network before its first step.
        size: side in pixels.
        name: for the error.

    Raises:
        InputError: names the network and the size.
    """
    if isinstance(model, Pretrained) and size == SIDE:
        raise InputError(f"early_image_size is {size}, which {name} enlarges to its own image_size: choose another.")
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, size, size))
    except (RuntimeError, AssertionError) as error:  # timm asserts the size
        raise InputError(f"early_image_size is {size}: {name} takes no images of that size.") from error
    finally:
        model.train(training)


def check_options(factory: Callable[..., object], options: dict[str, object], *, name: str) -> None:
    """Refuse options that a network would ignore.

    Args:
        factory: builds the network.
        options: by name.
        name: of the network, for the error.

    Raises:
        InputError: names the option and those that the network takes.
    """
    taken = [option for option in OPTIONS if option in inspect.signature(factory).parameters]
    for option, value in options.items():
        if option not in taken:
            raise InputError(
                f"{option} is {value!r}, but {name} takes {', '.join(taken) or 'no options'}: leave it out."
            )


def num_parameters(model: nn.Module) -> int:
    """How many numbers a network trains, those of frozen parts included."""
    return sum(parameter.numel() for parameter in model.parameters())


def prepare_model(model: nn.Module, images: Tensor) -> None:
    """Fit the layers whose constants come from training pixels: normalisation, and speednet's whitening.

    Args:
        model: a network before its first step; pretrained ones keep the statistics of their weights.
        images: uint8 [N, 3, 32, 32], the training images without the validation images.
    """
    for module in model.modules():
        if isinstance(module, Normalise):
            module.fit(images)
    for module in model.modules():
        if isinstance(module, SpeedNet):
            module.fit(images)
