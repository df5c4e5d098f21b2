"""The cache of decoded data: one file per split, and a record written last, so that nothing half-written is trusted."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from cifar.data.split import Split
from cifar.errors import WorldError
from cifar.files import cache_folder as cache_folder  # for the rest of this room as well
from cifar.files import write_bytes, write_json

CACHE_BYTES = 185_000_000
RECORD = "source.json"  # where the data came from, and the stamp by which an unchanged path is recognised


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


def read_record() -> dict[str, Any]:
    """The record of the cached data; empty where it is absent or unreadable."""
    try:
        record = json.loads((cache_folder() / RECORD).read_text(encoding="utf-8"))
        return record if isinstance(record, dict) and {"source", "stamp"} <= record.keys() else {}
    except (OSError, ValueError):
        return {}


def stamp_of(path: Path) -> list[object]:
    """Identify the state of a file or folder: its path, number of files, their bytes and the newest modification."""
    files = [path] if path.is_file() else [entry for entry in path.rglob("*") if entry.is_file()]
    stats = [file.stat() for file in files]
    newest = max((stat.st_mtime_ns for stat in stats), default=0)
    return [str(path.resolve()), len(stats), sum(stat.st_size for stat in stats), newest]


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
    (folder / RECORD).unlink(missing_ok=True)
