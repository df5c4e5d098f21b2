"""A network that we know nothing of is tried on a copy before it is trained or used: nothing of it changes by that.

It gets the hooks (`hooks.py`) that it needs.
"""

import copy
import io
import warnings
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from cifar.errors import InputError, Remark
from cifar.machine import is_out_of_memory
from cifar.models.hooks import clone_pixels, main_logits, make_contiguous, memory_format_of, place
from cifar.models.state_dict import load_tensors, unique_tensors
from cifar.models.weights import first_line
from cifar.randomness import generators_kept

Build = Callable[[], nn.Module]


def check_contract(model: object, *, name: str, build: Build) -> None:
    """Try a network on two images: [2, 3, 32, 32] must give [2, 10]. It gets the hooks that it needs to be used.

    Args:
        model: what the user's function or timm returned.
        name: of the network, for the error.
        build: makes another like it, for networks that cannot be copied.

    Raises:
        InputError: not a module, an exception, or another shape; says which.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"{name} returns a {type(model).__name__}: it must return a torch.nn.Module.")
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(f"{name} returns a TorchScript program: it must return the network that was scripted.")
    where = f"{name} fails on two images [2, 3, 32, 32]"
    with generators_kept():
        tensors = chain(model.parameters(), model.buffers())
        if any(isinstance(tensor, UninitializedParameter | UninitializedBuffer) for tensor in tensors):
            evaluate(model, some_pixels(2), where=where)  # lazy layers take their shapes from what they see
        pixels = some_pixels(2)
        logits = evaluate(twin(model, build), pixels, where=where)
        check_logits(logits, name=name, num_images=2)
        if not torch.equal(pixels, some_pixels(2)):
            model.register_forward_pre_hook(clone_pixels)
        other_format = twin(model, build).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        try:
            same = alike(evaluate(other_format, some_pixels(2, torch.channels_last), where=where), logits)
        except InputError:
            same = False
        if not same:
            model.register_forward_pre_hook(make_contiguous)
        trial = twin(model, build)
        place(trial)
        evaluate(trial, some_pixels(3), where=f"{name} takes two images, but fails on three")


def check_training(model: nn.Module, *, name: str, build: Build, num_images: int, averaged: bool) -> None:
    """Try one step of training, saving and loading on a copy. The network gets the hooks that it needs to be trained.

    Args:
        model: that `check_contract` has accepted.
        name: of the network, for the error.
        build: makes another like it, for networks that cannot be copied.
        num_images: in the smallest batch that it will see.
        averaged: whether a moving average of it is wanted, which is a copy.

    Raises:
        InputError: nothing to train, an exception, or logits that cannot be trained; says which.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(f"{name} has no parameter that takes a gradient: there is nothing to train.")
    if averaged:
        check_copy(model, name=name)
    with generators_kept():
        try:
            output, contiguous = try_formats(model, name=name, build=build, num_images=num_images)
        except InputError as error:
            if num_images == 1:
                try_formats(model, name=name, build=build, num_images=2)  # tells what else is wrong, if anything is
                raise InputError(f"{str(error).rstrip('.')}: give --batch-size 2 or more.") from error
            raise
    if contiguous:
        model.register_forward_pre_hook(make_contiguous)
    if isinstance(output, tuple | list):
        model.register_forward_hook(main_logits)
        warnings.warn(
            f"{name} gives {len(output)} outputs in training: only the first is trained.", Remark, stacklevel=2
        )


def try_formats(model: nn.Module, *, name: str, build: Build, num_images: int) -> tuple[Any, bool]:
    """The output of a copy in training, and whether it needs contiguous pixels and has not got them yet.

    Args:
        model, name, build, num_images: as of `check_training`.

    Raises:
        InputError: as of `check_training`.
    """
    try:
        return try_step(twin(model, build), name=name, num_images=num_images), False
    except InputError:
        if memory_format_of(model) == torch.contiguous_format:
            raise
        trial = twin(model, build)
        trial.register_forward_pre_hook(make_contiguous)
        return try_step(trial, name=name, num_images=num_images), True


def try_step(trial: nn.Module, *, name: str, num_images: int) -> Any:
    """One step of training, then saving and loading; the network is changed.

    Args:
        trial: a copy of the network.
        name, num_images: as of `check_training`.

    Returns:
        the output in training mode.

    Raises:
        InputError: as of `check_training`.
    """
    images = "one image" if num_images == 1 else f"{num_images} images"
    memory_format = memory_format_of(trial)
    place(trial)
    before = shapes_of(trial)
    try:
        output = trial.train()(some_pixels(num_images, memory_format))
        logits = output[0] if isinstance(output, tuple | list) and output else output
        check_logits(logits, name=f"{name} in training", num_images=num_images)
        if not logits.requires_grad:
            raise InputError(f"{name} gives logits without a gradient: it must not detach them from its parameters.")
        if not torch.isfinite(logits).all():
            raise InputError(f"{name} gives logits that are not finite before it is trained: check how it starts.")
        F.cross_entropy(logits.float(), torch.arange(num_images) % 10).backward()  # type: ignore[no-untyped-call]
        torch.optim.SGD([parameter for parameter in trial.parameters() if parameter.requires_grad], lr=1e-6).step()
        check_tensors(trial, before, name=name)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        if is_out_of_memory(error):
            raise
        raise InputError(
            f"{name} fails in a step of training on {images} with {type(error).__name__}: {first_line(error)}"
        ) from error
    return output


def check_tensors(trial: nn.Module, before: dict[str, torch.Size], *, name: str) -> None:
    """Save and load the tensors of a network that was called.

    Args:
        trial: the network, which is changed.
        before: the shapes that they had before.
        name: of the network, for the error.

    Raises:
        InputError: they are others now, or a file does not bring them back.
        TypeError: the state dict holds something else than tensors.
    """
    after = shapes_of(trial)
    changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    if changed:
        raise InputError(
            f"{name} makes or reshapes {changed[0]} when it is called: its constructor must make it, in its own shape."
        )
    state = trial.state_dict()
    torch.save(state, io.BytesIO())
    tensors = unique_tensors(state)
    try:
        load_tensors(trial, tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"{name} cannot load its own weights again: {reason}") from error


def shapes_of(model: nn.Module) -> dict[str, torch.Size]:
    """The shapes of all parameters and buffers by name."""
    tensors = chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    return {name: tensor.shape for name, tensor in tensors}


def check_copy(model: nn.Module, *, name: str) -> None:
    """Raise InputError, which names the remedy, if a network cannot be copied for a moving average of its weights."""
    try:
        copy.deepcopy(model)
    except Exception as error:  # of whatever its modules hold
        if is_out_of_memory(error):
            raise
        raise InputError(
            f"{name} cannot be copied for a moving average ({first_line(error)}): give --set ema_decay=0."
        ) from error


def twin(model: nn.Module, build: Build) -> nn.Module:
    """A copy of a network, or where it cannot be copied another one with the same hooks."""
    try:
        return copy.deepcopy(model)
    except Exception:  # of whatever its modules hold
        other = build()
        other.load_state_dict(model.state_dict())
        for hook in model._forward_pre_hooks.values():
            other.register_forward_pre_hook(hook)
        return other


def some_pixels(num_images: int, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    """The same random pixels every time, float [num_images, 3, 32, 32], for up to three images."""
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))[:num_images]
    return pixels.clone().contiguous(memory_format=memory_format)


def evaluate(model: nn.Module, pixels: Tensor, *, where: str) -> Any:
    """The output of a network in evaluation mode, without a gradient; its modes are as before afterwards.

    Args:
        model: a network.
        pixels: [N, 3, 32, 32].
        where: begins the error.

    Raises:
        InputError: it fails.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad():
            return model.eval()(pixels)
    except (Exception, SystemExit) as error:
        if is_out_of_memory(error):
            raise
        raise InputError(
            f"{where} with {type(error).__name__}: {first_line(error)}; it must take these as they are, and enlarge "
            "them itself if it needs to."
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode


def check_logits(logits: object, *, name: str, num_images: int) -> None:
    """Refuse what is no [N, 10] of floats.

    Args:
        logits: a network's output.
        name: of the network, for the error.
        num_images: N.

    Raises:
        InputError: says what it is.
    """
    images = "one image" if num_images == 1 else "two images" if num_images == 2 else f"{num_images} images"
    if not isinstance(logits, Tensor):
        raise InputError(f"{name} gives a {type(logits).__name__}: it must give logits [N, 10].")
    if logits.shape != (num_images, 10):
        raise InputError(
            f"{name} gives {list(logits.shape)} for {images}: it must give logits [{num_images}, 10], one per class."
        )
    if not logits.is_floating_point():
        raise InputError(f"{name} gives {logits.dtype}: it must give logits in floating point.")


def alike(first: Any, second: Tensor) -> bool:
    """Whether two outputs for the same images are the same but for rounding; what is not finite counts as alike."""
    if not isinstance(first, Tensor) or first.shape != second.shape:
        return False
    difference, size = (first.double() - second.double()).abs().max(), second.double().abs().max()
    return not (difference > 0.01 * size).item()
