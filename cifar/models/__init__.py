"""All networks by name, and the one function that builds them.

Every one is an `nn.Module` that takes float pixels in [0, 1], [N, 3, 32, 32], and gives [N, 10] logits; normalisation
is its first layer. Also "timm:NAME", any model of timm, and "package.module:function", a function of the user's.
"""

import difflib
import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cifar.errors import InputError
from cifar.models.cnn import cnn
from cifar.models.layers import Normalise
from cifar.models.pretrained import Pretrained, build_timm, previt
from cifar.models.resnet import resnet18, resnet20, resnet32, resnet44, resnet56, resnet110
from cifar.models.speednet import SpeedNet, speednet, speednet_large, speednet_narrow
from cifar.models.vit import vit, vit_large, vit_medium, vit_patch, vit_tiny
from cifar.recipes import Recipe

MODELS: dict[str, Callable[..., nn.Module]] = {
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

# Fields of a recipe that a network may take, and the value that leaves its own default.
OPTIONS: dict[str, object] = {
    "model_name": "",
    "weights": "",
    "image_size": 0,
    "early_image_size": 0,
    "pool": "",
    "dropout": 0.0,
    "drop_path": 0.0,
}


def check_name(name: str, *, also: Iterable[str] = ()) -> None:
    """Refuse a name that no network has; what stands behind a colon is looked up when it is built.

    Args:
        also: further names that are valid where this one was typed, such as those of recipes.

    Raises:
        InputError: lists the valid names and the nearest one.
    """
    valid = list(dict.fromkeys([*also, *MODELS]))
    if name in valid or all(name.partition(":")):
        return
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise InputError(
        f"There is no model {name!r}.{hint} Choose from {', '.join(valid)}, timm:NAME or package.module:function."
    )


def is_pretrained(recipe: Recipe) -> bool:
    """Whether the recipe's network comes with pretrained weights."""
    return recipe.model == "previt" or (recipe.model.startswith("timm:") and bool(recipe.weights))


def build_model(recipe: Recipe, *, pretrained: bool = True) -> nn.Module:
    """The network that a recipe names, randomly initialised or with pretrained weights.

    Args:
        recipe: of its fields, `model` and those in `OPTIONS`.
        pretrained: false where the weights of a run will be loaded, so that none need be found: changes no shape.

    Raises:
        InputError: no such network, or an option that it does not take.
        WorldError: pretrained weights cannot be had.
    """
    name = recipe.model
    check_name(name)
    options = {field: getattr(recipe, field) for field, default in OPTIONS.items() if getattr(recipe, field) != default}
    if name == "previt":
        return previt(pretrained=pretrained, **options)
    before, _, after = name.partition(":")
    factory: Callable[..., Any]
    if before == "timm":
        # Without weights these start at random: then nothing is known of a size or of statistics that they expect.
        known = bool(recipe.weights)
        factory = functools.partial(build_timm, after, pretrained=known and pretrained, size_of_weights=known)
    else:
        factory = MODELS[name] if name in MODELS else find_factory(name)
    check_options(factory, options, name=name)
    model = factory(**options)
    if name not in MODELS:
        check_contract(model, name=name)
    if recipe.window:
        check_window(model, recipe.window, name=name)
    return model


def check_window(model: nn.Module, size: int, *, name: str) -> None:
    """Refuse windows of images that a network cannot take, which one forward pass finds out.

    Raises:
        InputError: names the network and the size.
    """
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, size, size))
    except (RuntimeError, AssertionError) as error:  # timm asserts the size
        raise InputError(f"{name} takes no images of {size} pixels: leave out window and window_epochs.") from error
    model.train()


def check_options(factory: Callable[..., object], options: dict[str, object], *, name: str) -> None:
    """Refuse what a network would ignore.

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
    """The user's function behind "package.module:function"; modules in the current folder count.

    Raises:
        InputError: no such module, it fails when imported, no such function in it, or not a function.
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
    """Try two images: a network takes [2, 3, 32, 32] and gives [2, 10].

    Raises:
        InputError: no module, an exception, or another shape; names what came instead.
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


def feed_early(model: nn.Module, early: bool) -> None:
    """Have the networks in a module see images of their early size, or again of their own."""
    for module in model.modules():
        if isinstance(module, Pretrained | SpeedNet):
            module.early = early


def prepare_model(model: nn.Module, images: Tensor) -> None:
    """Fit every layer that takes its constants from training pixels: normalisation, and speednet's whitening.

    Args:
        model: a network before its first step; pretrained ones keep the statistics of their weights.
        images: uint8 [N, 3, 32, 32]: the training part alone.
    """
    for module in model.modules():
        if isinstance(module, Normalise | SpeedNet):
            module.fit(images)
