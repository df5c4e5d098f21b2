"""The cache of decoded data: one file per split, and a record written last, so that nothing half-written is trusted."""

import errno
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from cifar.data import in_words
from cifar.data.processes import hold
from cifar.data.split import Split
from cifar.errors import WorldError
from cifar.files import cache_folder as cache_folder  # for the rest of this room as well
from cifar.files import write_bytes, write_json

CACHE_BYTES = 185_000_000
LOCK = ".lock"  # held by the process that fills the cache
RECORD = "source.json"  # where the data came from, and the stamp by which an unchanged path is recognised
PARTIAL = "cifar-10-python.tar.gz.part"  # a download of the official archive, resumed by the next


def check_space() -> None:
    """Refuse to start a download that the disk has no room for.

    Raises:
        WorldError: names the folder, the space needed and the space free.
    """
    folder = make_cache_folder()
    free = shutil.disk_usage(folder).free
    if free < 2 * CACHE_BYTES:
        raise WorldError(
            f"{folder} has {free / 1e6:,.0f} MB free and the download needs {2 * CACHE_BYTES / 1e6:,.0f} MB: "
            "free some space or set CIFAR_HOME to another disk"
        )


def make_cache_folder() -> Path:
    """The cache folder, created if necessary.

    Raises:
        WorldError: it cannot be created.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorldError(
            f"The cache folder {folder} cannot be created ({error.strerror}): set CIFAR_HOME to another."
        ) from None
    return folder


@contextmanager
def filling(say: Callable[[str], object]) -> Iterator[None]:
    """Fill the cache: one process at a time, so that others find it filled, and none downloads into another's file.

    What killed processes left behind is removed. Without locks on this file system, processes fill the cache side by
    side, which costs time and is right all the same.

    Args:
        say: gets a sentence where another process has to be waited for.
    """
    with suppress(WorldError):  # a copy of the sample needs no cache; for all others, writing says what is wrong
        make_cache_folder()
    folder = cache_folder()
    notice = f"Another process is filling {folder}: waiting for it."
    with hold(folder / LOCK, waiting=lambda: say(notice)) as held:
        if held:
            remove_leftovers(folder)
        yield


def leftovers(folder: Path) -> list[Path]:
    """What processes write in the cache folder while they hold its lock, and should not be there when nobody does."""
    patterns = (".fetch-*", ".train.safetensors.*.part", ".test.safetensors.*.part", f".{RECORD}.*.part")
    return [path for pattern in patterns for path in folder.glob(pattern)]


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that have ended left in the cache folder; only for whoever holds its lock."""
    for path in leftovers(folder):
        shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            path.unlink()


def tidy_cache() -> None:
    """Remove what processes that have ended left in the cache folder, unless another fills the cache now."""
    folder = cache_folder()
    if leftovers(folder) or (folder / LOCK).exists():
        with hold(folder / LOCK, waiting=None) as held:
            if held:
                remove_leftovers(folder)


def read_record() -> dict[str, Any]:
    """The record of the cached data; empty where it is absent or unreadable."""
    try:
        record = json.loads((cache_folder() / RECORD).read_text(encoding="utf-8"))
        return record if isinstance(record, dict) and {"source", "stamp"} <= record.keys() else {}
    except (OSError, ValueError, RecursionError):
        return {}


def stamp_of(path: Path, files: Iterable[Path]) -> list[object]:
    """Identify the state of a person's copy: its path, number of files, their bytes and the newest modification.

    Raises:
        WorldError: a file cannot be found any more.
    """
    try:
        stats = [file.stat() for file in files]
        newest = max((stat.st_mtime_ns for stat in stats), default=0)
        return [str(path.resolve()), len(stats), sum(stat.st_size for stat in stats), newest]
    except (OSError, RuntimeError) as error:  # the latter of a link to itself
        reason = getattr(error, "strerror", None) or error
        name = in_words(getattr(error, "filename", None) or path)
        raise WorldError(
            f"{name} cannot be read ({reason}): make it readable, or let `cifar data` fetch CIFAR-10."
        ) from None


def write_cache(splits: tuple[Split, Split], *, source: str, stamp: list[object]) -> Path:
    """Write verified splits into the cache.

    Args:
        splits: train, test.
        source: where they came from, in words.
        stamp: of a path that the user gave, see `stamp_of`; empty for a download.

    Returns:
        the cache folder.

    Raises:
        WorldError: the disk is full or not writable; nothing half-written is left where it would be trusted.
    """
    folder = make_cache_folder()
    record = folder / RECORD
    try:
        record.unlink(missing_ok=True)  # until it is written again, nothing counts as cached
        for name, split in zip(("train", "test"), splits, strict=True):
            data = save({"labels": split.labels.to(torch.uint8), "images": split.images.contiguous()})
            write_bytes(folder / f"{name}.safetensors", data)
        write_json(record, {"source": source, "stamp": stamp})
        (folder / PARTIAL).unlink(missing_ok=True)  # not needed any more, whichever source had the data
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fault = f"The disk is full: {folder} needs {CACHE_BYTES / 1e6:.0f} MB"
            remedy = "free some space or set CIFAR_HOME to another disk"
        else:
            fault, remedy = f"{folder}: {error.strerror}", "set CIFAR_HOME to a folder you can write"
        raise WorldError(f"{fault}; {remedy}.") from None
    return folder


def forget_cache(folder: Path) -> None:
    """Stop trusting the cached data, so that they are fetched again."""
    with suppress(OSError):  # on a disk that cannot be written, they are verified again by whoever loads them
        (folder / RECORD).unlink(missing_ok=True)
