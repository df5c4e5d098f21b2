"""Activations of the frozen part of a network for every training image: computed once, kept on the disk.

The file is named by a checksum of everything that decides it: the frozen weights, the resolution, where the network is
cut, and the data. It is float32, so that training on it and evaluating the whole network agree to rounding.
"""

import hashlib
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cifar.data.batches import to_pixels
from cifar.data.cifar10 import Dataset, cache_folder
from cifar.data.split import Split
from cifar.errors import WorldError
from cifar.models import build_model
from cifar.models.frozen import FrozenPart, freeze
from cifar.models.pretrained import Pretrained
from cifar.recipes import Recipe

BATCH = 64


def frozen_activations(
    recipe: Recipe, split: Split, dataset: Dataset, *, device: str, progress: Callable[[int, int], None]
) -> Split:
    """The training images replaced by the activations of the frozen part of the recipe's network.

    Args:
        recipe: with train_blocks of 0 or more.
        split: images uint8 [N, 3, 32, 32], all training images of the data set, so that all folds share the file.
        dataset: that they come from.
        device: cpu, mps or cuda.
        progress: called with images done and images in all, where they have to be computed.

    Returns:
        activations float32 [N, D] or [N, T, D], mapped from the disk, with the labels.

    Raises:
        InputError: a network without a frozen part.
        WorldError: the disk has no room for the file, or it cannot be written.
    """
    model = build_model(recipe, trust_code=True)  # decided before any training began
    freeze(model, recipe.network.train_blocks)
    assert isinstance(model, Pretrained)
    path = cache_folder() / "activations" / f"{activations_key(model, recipe, dataset)}.npy"
    if not path.exists():
        part = FrozenPart(model, recipe.network.train_blocks).to(device).eval()
        try:
            compute(part, split, path, device=device, progress=progress)
        except OSError as error:
            raise WorldError(f"{path}: {error.strerror or error}: free some space or set CIFAR_HOME.") from None
    return Split(torch.from_numpy(np.load(path, mmap_mode="c")), split.labels)


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
        path: of the file.
        device: cpu, mps or cuda.
        progress: called with images done and images in all.

    Raises:
        OSError, WorldError: the disk has no room.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    growing = path.with_suffix(".part")
    done = 0
    try:
        rows = None
        for batch in torch.split(split.images, BATCH):
            with torch.inference_mode():
                activations = part(to_pixels(batch.to(device))).float().cpu().numpy()
            if rows is None:
                shape = (len(split), *activations.shape[1:])
                check_room(path.parent, shape)
                rows = np.lib.format.open_memmap(growing, mode="w+", dtype=np.float32, shape=shape)
            rows[done : done + len(batch)] = activations
            done += len(batch)
            progress(done, len(split))
        assert rows is not None
        rows.flush()
        growing.replace(path)
    finally:
        growing.unlink(missing_ok=True)
