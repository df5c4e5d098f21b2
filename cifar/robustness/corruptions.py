"""The 15 common corruptions of Hendrycks and Dietterich 2019 in five severities each, regenerated for 32×32 pixels.

"Benchmarking neural network robustness to common corruptions and perturbations", with the settings that its authors
chose for CIFAR-10. These images are regenerated, never their CIFAR-10-C itself: figures on the two are not the same.
They differ in the random draws, at borders, in rounding, and most in frost, whose photographs are not ours: crystals
are computed, and its figures are not comparable (NOT_COMPARABLE). Glass blur follows the published images, where pixels
are copied from near ones, rather than the paper's text, by which they are swapped.

What was tried first: `imagecorruptions` 1.1.2 is of 2020. Its fork `imagecorruptions-imaug` 1.1.5 and `corrupt-tta`
0.1.7 are of 2026, and the fork works here, but both have only ImageNet's severities, which are up to eight times as
strong, take one image at a time, draw from numpy's global state or from a seed of their own, and bring OpenCV and
scikit-image (the fork numba as well). The augmentation libraries albumentations and kornia have some of the transforms,
with settings of their own and without these severities.

The same seed gives the same images with the same versions of numpy, scipy and Pillow: what interpolates is written so
that its bits do not depend on the CPU. Each corruption and severity has a generator of its own, so that one can be made
alone. Version 1 used matrix products and PyTorch, whose sums depend on the CPU, and its zoom blur and elastic transform
were sharper than the published ones.
"""

import hashlib
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cifar.data.cache import make_cache_folder
from cifar.data.cifar10 import Dataset
from cifar.data.processes import hold
from cifar.data.split import NUM_TEST
from cifar.errors import InputError, Remark, WorldError
from cifar.files import write_whole
from cifar.robustness import distort, weather
from cifar.robustness.distort import Pixels, Random

VERSION = 2  # of the images that the same seed gives: one more with every change of them
NOT_COMPARABLE = ("frost",)  # with published figures
CHUNK = 500  # images at a time; the draws depend on it
SEVERITIES = (1, 2, 3, 4, 5)
SEED = 0  # of the images that runs are evaluated on, so that their accuracies are of the same ones
NUM_SAMPLE_TEST = 200
MAX_NPZ_HEADER_BYTES = 4096


@dataclass(frozen=True)
class Corruption:
    """What is done to images.

    Attributes:
        apply: takes pixels, a setting and a generator; returns pixels (`cifar.robustness.distort`).
        settings: for the severities from 1 to 5.
    """

    apply: Callable[[Pixels, Any, Random], Pixels]
    settings: tuple[Any, Any, Any, Any, Any]


CORRUPTIONS = {
    "gaussian noise": Corruption(distort.gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot noise": Corruption(distort.shot_noise, (500, 250, 100, 75, 50)),
    "impulse noise": Corruption(distort.impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "defocus blur": Corruption(distort.defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
    "glass blur": Corruption(distort.glass_blur, ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))),
    "motion blur": Corruption(distort.motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
    "zoom blur": Corruption(distort.zoom_blur, (1.05, 1.10, 1.15, 1.20, 1.25)),
    "snow": Corruption(
        weather.snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    ),
    "frost": Corruption(weather.frost, ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))),
    "fog": Corruption(weather.fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "brightness": Corruption(distort.brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": Corruption(distort.contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "elastic transform": Corruption(
        distort.elastic_transform,
        ((0, 0, 2.56), (1.6, 6.4, 2.24), (2.56, 1.92, 1.92), (3.2, 1.28, 1.6), (3.2, 0.96, 0.96)),
    ),
    "pixelate": Corruption(distort.pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg compression": Corruption(distort.jpeg_compression, (80, 65, 58, 50, 40)),
}


def corrupt(images: Tensor, name: str, severity: int, *, seed: int) -> Tensor:
    """Corrupt images; the draws for an image do not depend on those after the 500 that it is in.

    Args:
        images: uint8 [N, 3, 32, 32].
        name: in CORRUPTIONS.
        severity: 1 to 5.
        seed: of the draws.

    Returns:
        uint8 [N, 3, 32, 32].
    """
    corruption, setting = CORRUPTIONS[name], CORRUPTIONS[name].settings[severity - 1]
    random = np.random.default_rng([seed, list(CORRUPTIONS).index(name), severity])
    corrupted = torch.empty_like(images, memory_format=torch.contiguous_format)
    for start in range(0, len(images), CHUNK):
        chunk = images[start : start + CHUNK].permute(0, 2, 3, 1).numpy()
        pixels = corruption.apply((chunk / np.float32(255)).astype(np.float32), setting, random)
        values = np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8)
        corrupted[start : start + CHUNK] = torch.from_numpy(values).permute(0, 3, 1, 2)
    return corrupted


def corrupted_images(images: Tensor, name: str, severity: int, *, seed: int, data_sha256: str) -> tuple[Tensor, bool]:
    """Return corrupted images from the cache, or made now and cached; and whether they were made now.

    Args:
        images: all of the test split of a data set, uint8 [N, 3, 32, 32].
        name, severity, seed: as of `corrupt`.
        data_sha256: of the data set.

    Raises:
        WorldError: the disk is full or forbidden.
    """
    path = corruptions_folder(seed=seed, data_sha256=data_sha256) / f"{name.replace(' ', '-')}-{severity}.npz"
    if (cached := read_images(path, images)) is not None:
        if (path.parent / ".lock").exists():
            with hold(path.parent / ".lock", waiting=None) as held:  # of a process that was killed
                if held:
                    remove_parts(path.parent)
        return cached, False
    notice = f"Another process makes corrupted images in {path.parent}: waiting for it."
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with hold(path.parent / ".lock", waiting=lambda: warnings.warn(Remark(notice), stacklevel=2)) as held:
            if (cached := read_images(path, images)) is not None:  # by now
                return cached, False
            if held:
                remove_parts(path.parent)
            corrupted = corrupt(images, name, severity, seed=seed)
            write_whole(path, lambda file: np.savez(file, images=corrupted.numpy()))
    except OSError as error:
        raise WorldError(
            f"{path}: {error.strerror or error}: free {75 * images.nbytes / 1e6:,.0f} MB for all corruptions or set "
            "CIFAR_HOME to another disk."
        ) from None
    return corrupted, True


def check_corruptions(dataset: Dataset, *, split: str) -> None:
    """Refuse a split that is not corrupted, or images that the disk cannot keep.

    Args:
        dataset: that is evaluated; split: of it.

    Raises:
        InputError: another split than the test split.
        WorldError: see `check_room`.
    """
    if split != "test":
        raise InputError("--corruptions goes with --split test: only test images are corrupted.")
    num_images = NUM_SAMPLE_TEST if dataset.is_sample else NUM_TEST
    check_room(num_images, seed=SEED, data_sha256=dataset.sha256)


def check_room(num_images: int, *, seed: int, data_sha256: str) -> None:
    """Refuse to begin what the disk cannot keep.

    Args:
        num_images: of the test split.
        seed, data_sha256: as of `corrupted_images`.

    Raises:
        WorldError: names the folder, what is needed and what is free.
    """
    folder = corruptions_folder(seed=seed, data_sha256=data_sha256)
    num_missing = len(CORRUPTIONS) * len(SEVERITIES) - len(list(folder.glob("*.npz")))
    needed, free = num_missing * num_images * 3 * 32 * 32, shutil.disk_usage(make_cache_folder()).free
    if free < needed:
        raise WorldError(
            f"{folder} needs {needed / 1e6:,.0f} MB for the corrupted images and {free / 1e6:,.0f} MB are free: "
            "free some or set CIFAR_HOME to another disk."
        )


def corruptions_folder(*, seed: int, data_sha256: str) -> Path:
    """Return the cache folder of a data set's corrupted images; its name is a hash of checksum, seed and version."""
    key = hashlib.sha256(f"{data_sha256} {seed} {VERSION}".encode()).hexdigest()[:16]
    return make_cache_folder() / "corruptions" / key


def remove_parts(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder that this process holds."""
    for leftover in folder.glob("*.part"):
        leftover.unlink(missing_ok=True)


def read_images(path: Path, images: Tensor) -> Tensor | None:
    """Return cached images; None where the file is missing or damaged, by its own checksums.

    Args:
        path: of the file.
        images: whose corrupted versions they are, uint8 [N, 3, 32, 32].
    """
    if not path.is_file() or path.stat().st_size > images.nbytes + MAX_NPZ_HEADER_BYTES:
        return None
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            cached = torch.from_numpy(arrays["images"])
    except Exception:  # a flipped bit makes NumPy and zipfile raise all kinds of errors; it is made again
        return None
    return cached if cached.dtype == images.dtype and cached.shape == images.shape else None
