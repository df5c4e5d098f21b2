"""The cache of decoded data: a file a split, and a record written last, so that nothing half-written is trusted."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_dir
from safetensors.torch import save

from cifar.data.split import Split
from cifar.errors import WorldError
from cifar.files import write_bytes, write_json

CACHE_BYTES = 185_000_000
RECORD = "source.json"  # where the data came from, and what tells an unchanged path


def cache_folder() -> Path:
    """Where decoded data lie: CIFAR_HOME if it is set, else the platform's cache folder."""
    home = os.environ.get("CIFAR_HOME")
    return Path(home).expanduser() if home else Path(user_cache_dir("cifar"))


def check_space() -> None:
    """Refuse to begin a download that cannot be kept.

    Raises:
        WorldError: names the folder, what is needed and what is free.
    """
    folder = make_cache_folder()
    free = shutil.disk_usage(folder).free
    if free < 2 * CACHE_BYTES:
        raise WorldError(
            f"{folder} has {free / 1e6:,.0f} MB free and CIFAR-10 needs {2 * CACHE_BYTES / 1e6:,.0f} MB for a while: "
            "free some or set CIFAR_HOME to another disk"
        )


def make_cache_folder() -> Path:
    """The cache folder, made if need be.

    Raises:
        WorldError: it cannot be made.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorldError(f"The cache {folder} cannot be made ({error.strerror}): set CIFAR_HOME to another.") from None
    return folder


def read_record() -> dict[str, Any]:
    """What the record says of the cached data; empty where it is absent or unreadable."""
    try:
        record = json.loads((cache_folder() / RECORD).read_text(encoding="utf-8"))
        return record if isinstance(record, dict) and {"source", "stamp"} <= record.keys() else {}
    except (OSError, ValueError):
        return {}


def stamp_of(path: Path) -> list[object]:
    """What changes when a file or folder does: its place, number of files, their bytes and newest change."""
    files = [path] if path.is_file() else [entry for entry in path.rglob("*") if entry.is_file()]
    states = [file.stat() for file in files]
    newest = max((state.st_mtime_ns for state in states), default=0)
    return [str(path.resolve()), len(states), sum(state.st_size for state in states), newest]


def write_cache(splits: tuple[Split, Split], *, source: str, stamp: list[object]) -> Path:
    """Write verified splits, train and test, and give the folder; arguments as of `cifar10.store`.

    Raises:
        WorldError: the disk is full or forbidden; nothing half-written is left where it would be trusted.
    """
    folder = make_cache_folder()
    record = folder / RECORD
    try:
        record.unlink(missing_ok=True)  # from here until it is written again, nothing is cached
        for part, split in zip(("train", "test"), splits, strict=True):
            data = save({"labels": split.labels.to(torch.uint8), "images": split.images.contiguous()})
            write_bytes(folder / f"{part}.safetensors", data)
        write_json(record, {"source": source, "stamp": stamp})
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = f"The disk is full: {folder} needs {CACHE_BYTES / 1e6:.0f} MB" if full else f"{folder}: {error.strerror}"
        remedy = "free some or set CIFAR_HOME to another disk" if full else "set CIFAR_HOME to a folder you can write"
        raise WorldError(f"{what}; {remedy}.") from None
    return folder


def forget_cache(folder: Path) -> None:
    """Trust what lies in the cache no longer."""
    (folder / RECORD).unlink(missing_ok=True)
