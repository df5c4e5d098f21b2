"""Activations of the frozen part of a network for every training image: computed once, kept on the disk.

The file is named by a checksum of everything that decides it: the frozen weights, the resolution, where the network is
cut, and the data. It is float32, so that training on it and evaluating the whole network agree to rounding. It ends in
a checksum of its content, which is verified whenever it is used; a damaged file is made again.
"""

import hashlib
import itertools
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cifar.data.arrays import load_array, save_array
from cifar.data.batches import to_pixels
from cifar.data.cifar10 import Dataset, cache_folder
from cifar.data.processes import hold
from cifar.data.split import Split
from cifar.errors import Remark, WorldError
from cifar.models import build_model
from cifar.models.frozen import FrozenPart, freeze
from cifar.models.pretrained import Pretrained
from cifar.recipes import Recipe

BATCH = 64


def frozen_activations(
    recipe: Recipe,
    split: Split,
    dataset: Dataset,
    *,
    device: str,
    progress: Callable[[int, int], None],
    model: nn.Module | None = None,
) -> Split:
    """The training images replaced by the activations of the frozen part of the recipe's network.

    Args:
        recipe: with train_blocks of 0 or more.
        split: images uint8 [N, 3, 32, 32], all training images of the data set, so that all folds share the file.
        dataset: that they come from.
        device: cpu, mps or cuda.
        progress: called with images done and images in all, where they have to be computed.
        model: the recipe's network with its frozen weights; None builds it.

    Returns:
        activations float32 [N, D] or [N, T, D], mapped from the disk, with the labels.

    Raises:
        InputError: a network without a frozen part.
        WorldError: the disk has no room for the file, or it cannot be read or written.
    """
    model = model or build_model(recipe, trust_code=True)  # decided before any training began
    freeze(model, recipe.network.train_blocks)
    assert isinstance(model, Pretrained)
    path = cache_folder() / "activations" / f"{activations_key(model, recipe, dataset)}.npy"
    notice = f"Another process computes the activations of the frozen part, {path}: waiting for it."
    try:
        rows = load_array(path, len(split))
        if rows is not None and lock_path(path).exists():
            with hold(lock_path(path), waiting=None) as held:  # of a process that was killed; goes with the block
                if held:
                    remove_leftovers(path)
        if rows is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with hold(lock_path(path), waiting=lambda: warnings.warn(Remark(notice), stacklevel=2)) as held:
                rows = load_array(path, len(split))  # by now
                if rows is None:
                    if held:
                        remove_leftovers(path)
                    part = FrozenPart(model, recipe.network.train_blocks).to(device).eval()
                    compute(part, split, path, device=device, progress=progress)
                    rows = load_array(path, len(split))
    except OSError as error:
        raise WorldError(f"{path}: {error.strerror or error}: free some space or set CIFAR_HOME.") from None
    if rows is None:
        raise WorldError(f"{path} cannot be read as it was written: check the disk, or set CIFAR_HOME to another.")
    return Split(torch.from_numpy(rows), split.labels)


def lock_path(path: Path) -> Path:
    """The lock that a process holds while it writes a file of activations."""
    return path.with_name(f".{path.name}.lock")


def remove_leftovers(path: Path) -> None:
    """Remove half-written files of processes that have ended: those whose lock nobody else holds.

    Args:
        path: of the file whose lock this process holds.
    """
    for part in path.parent.glob("*.part"):
        whole = part.with_name(part.name.lstrip(".").partition(".")[0] + path.suffix)
        if whole == path:
            part.unlink(missing_ok=True)
            continue
        with hold(lock_path(whole), waiting=None) as held:
            if held:
                part.unlink(missing_ok=True)


def check_room(folder: Path, shape: Sequence[int]) -> None:
    """Refuse to begin what the disk cannot keep: the tokens of 50,000 images can be 30 GB.

    Args:
        folder: that the file goes to.
        shape: of the float32 activations.

    Raises:
        WorldError: names the folder, what is needed and what is free.
    """
    needed, free = 4 * math.prod(shape), shutil.disk_usage(folder).free
    if free < needed:
        raise WorldError(
            f"{folder} needs {needed / 1e9:,.1f} GB for the activations of the frozen part and {free / 1e9:,.1f} GB "
            "are free: free some, set CIFAR_HOME to another disk, or use --freeze, which keeps a vector per image."
        )


def activations_key(model: Pretrained, recipe: Recipe, dataset: Dataset) -> str:
    """A checksum of what decides the activations.

    Args:
        model: with its frozen parameters.
        recipe: of the run.
        dataset: whose training images are meant.
    """
    digest = hashlib.sha256(f"{dataset.sha256} {model.image_size} {recipe.network.train_blocks}".encode())
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, tensor in sorted(model.state_dict().items()):
        if name not in trained:
            digest.update(name.encode())
            digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()[:24]


def compute(part: nn.Module, split: Split, path: Path, *, device: str, progress: Callable[[int, int], None]) -> None:
    """Write the activations of all images to a file, which gets its name when it is complete.

    Args:
        part: the frozen part, on the device.
        split: images uint8 [N, 3, 32, 32].
        path: of the file, in a folder that exists.
        device: cpu, mps or cuda.
        progress: called with images done and images in all.

    Raises:
        OSError, WorldError: the disk has no room.
    """

    def blocks() -> Iterator[NDArray[np.float32]]:
        done = 0
        for batch in torch.split(split.images, BATCH):
            with torch.inference_mode():
                activations: NDArray[np.float32] = part(to_pixels(batch.to(device))).float().cpu().numpy()
            yield activations
            done += len(batch)
            progress(done, len(split))

    rest = blocks()
    first = next(rest)
    shape = (len(split), *first.shape[1:])
    check_room(path.parent, shape)
    save_array(path, shape, itertools.chain([first], rest))
