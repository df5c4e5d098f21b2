"""All networks by name, and the function that builds them.

Each is an `nn.Module` from float pixels in [0, 1], [N, 3, 32, 32], to [N, 10] logits; normalisation is its first layer.
"timm:NAME" is any model of timm, and "package.module:function" a function of the user's.
"""

import difflib
import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cifar.errors import InputError
from cifar.models.cnn import cnn
from cifar.models.layers import Normalise
from cifar.models.pretrained import SIDE, Pretrained, build_timm, previt
from cifar.models.resnet import resnet18, resnet20, resnet32, resnet44, resnet56, resnet110
from cifar.models.speednet import SpeedNet, speednet, speednet_large, speednet_narrow
from cifar.models.vit import vit, vit_large, vit_medium, vit_patch, vit_tiny
from cifar.recipes import Network, Recipe
from cifar.recipes.names import check_name

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
    return recipe.model == "previt" or (recipe.model.startswith("timm:") and bool(recipe.network.weights))


def build_model(recipe: Recipe, *, pretrained: bool = True) -> nn.Module:
    """Build the network that a recipe names, randomly initialised or with pretrained weights.

    Args:
        recipe: its model, network options and, for smaller images in early epochs, their size.
        pretrained: false where the weights of a run will be loaded, so that none need be found: changes no shape.

    Raises:
        InputError: no such network, or an option or image size that it does not take.
        WorldError: pretrained weights cannot be had.
    """
    name = recipe.model
    check_name(name)
    values = {field: getattr(recipe.network, field) for field in OPTIONS}
    options = {field: value for field, value in values.items() if value != getattr(Network(), field)}
    early_size = recipe.augment.early_image_size
    before, _, after = name.partition(":")
    factory: Callable[..., Any]
    if name == "previt":
        factory = functools.partial(previt, pretrained=pretrained, other_image_size=early_size)
    elif before == "timm":
        # Without weights it starts at random: then nothing is known of a size or of statistics that it expects.
        known = bool(recipe.network.weights)
        factory = functools.partial(
            build_timm, after, pretrained=known and pretrained, size_of_weights=known, other_image_size=early_size
        )
    else:
        factory = FACTORIES[name] if name in FACTORIES else find_factory(name)
    check_options(factory, options, name=name)
    model = factory(**options)
    if name not in FACTORIES:
        check_contract(model, name=name)
    if early_size:
        check_early_size(model, early_size, name=name)
    return model


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


def find_factory(name: str) -> Callable[..., Any]:
    """The user's function behind "package.module:function"; modules in the current folder are found too.

    Raises:
        InputError: there is no such module, importing it fails, or it has no such function.
    """
    module_name, _, attribute = name.partition(":")
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(f"{name}: there is no module {error.name!r}: install it or run from its folder.") from None
    except Exception as error:
        raise InputError(f"{name}: importing {module_name} fails with {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(folder)
    if not hasattr(module, attribute):
        near = difflib.get_close_matches(attribute, dir(module), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(f"{name}: {module_name} has no {attribute!r}.{hint}")
    factory = getattr(module, attribute)
    if not callable(factory):
        raise InputError(f"{name}: {attribute} is a {type(factory).__name__}, not a function that returns a network.")
    return factory  # type: ignore[no-any-return]


def check_contract(model: object, *, name: str) -> None:
    """Try a network on two images: [2, 3, 32, 32] must give [2, 10].

    Args:
        model: what the user's function returned.
        name: of the network, for the error.

    Raises:
        InputError: not a module, an exception, or another shape; says which.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"{name} returns a {type(model).__name__}: it must return a torch.nn.Module.")
    training = model.training
    try:
        with torch.no_grad():
            logits = model.eval()(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else "no message"
        raise InputError(f"{name} fails on two images [2, 3, 32, 32] with {type(error).__name__}: {reason}") from error
    finally:
        model.train(training)
    if not isinstance(logits, Tensor):
        raise InputError(f"{name} gives a {type(logits).__name__}: it must give logits [N, 10].")
    if logits.shape != (2, 10):
        raise InputError(f"{name} gives {list(logits.shape)} for two images: it must give logits [2, 10].")


def prepare_model(model: nn.Module, images: Tensor) -> None:
    """Fit the layers whose constants come from training pixels: normalisation, and speednet's whitening.

    Args:
        model: a network before its first step; pretrained ones keep the statistics of their weights.
        images: uint8 [N, 3, 32, 32], the training images without the validation images.
    """
    for module in model.modules():
        if isinstance(module, Normalise | SpeedNet):
            module.fit(images)
