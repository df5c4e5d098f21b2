"""What lies in a folder, as far as it counts: two unbroken runs of a command leave equal states."""

import csv
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# What differs between two unbroken runs, or counts what was broken.
VARIES = re.compile(
    r"second|time|timing|date|sitting|reading|command|commit|milli|pid|host|checkpoint|lowest|highest|wandb",
    re.IGNORECASE,
)


def copy(source: Path, target: Path) -> Path:
    """Copy a folder, replacing what is there."""
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(source, target, symlinks=True))


def state_of(place: Path) -> dict[str, str]:
    """What lies in a folder: a digest of every file, without what varies from run to run.

    Leftovers count, so that two states are equal only where nothing is left over.
    """
    files = (Path(folder) / name for folder, _, names in os.walk(place) for name in names)
    return {str(file.relative_to(place)): digest(file) for file in sorted(files) if "kernels" not in file.parts}


def digest(path: Path) -> str:
    """A digest of a file's content that counts; the content itself where it is text."""
    readers: dict[str, Callable[[Path], str]] = {
        ".json": json_that_counts, ".csv": rows_that_count, ".npz": arrays_of, ".ckpt": lambda _: "",
        ".tar": lambda _: "", ".html": undated, ".md": undated,
    }  # fmt: skip
    try:
        return readers.get(path.suffix, sha256_of)(path)
    except Exception as error:
        return f"unreadable: {error!r}"


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def undated(path: Path) -> str:
    """Text without the moment at which it was written."""
    return re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?", "", path.read_text())


def checksums_that_hold(path: Path) -> str:
    """The names in checksums.json, and whether what is recorded last is what each file holds."""
    return json.dumps({
        name: known[-1] == sha256_of(path.with_name(name))
        for name, known in sorted(json.loads(path.read_text()).items())
    })  # fmt: skip


def json_that_counts(path: Path) -> str:
    """JSON without times and counts of attempts."""
    if path.name == "checksums.json":
        return checksums_that_hold(path)

    def keep(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: keep(entry) for key, entry in value.items() if not VARIES.search(key)}
        return [keep(entry) for entry in value] if isinstance(value, list) else value

    value = json.loads(path.read_text())
    if path.name == "source.json":  # the stamp is of this copy of the archive
        value.pop("stamp", None)
        value.pop("source", None)
    return json.dumps(keep(value), sort_keys=True)


def rows_that_count(path: Path) -> str:
    """The rows of a CSV file without columns of times."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return json.dumps([{key: value for key, value in row.items() if not VARIES.search(key)} for row in rows])


def arrays_of(path: Path) -> str:
    """A digest of the arrays in an .npz file."""
    import numpy as np

    content = hashlib.sha256()
    with np.load(path) as arrays:
        for name in sorted(arrays):
            content.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode() + arrays[name].tobytes())
    return content.hexdigest()


def differences(expected: Mapping[str, str], got: Mapping[str, str]) -> str:
    """In words, how two states differ; "" if they do not."""
    absent, more = sorted(expected.keys() - got.keys()), sorted(got.keys() - expected.keys())
    other = [name for name in sorted(expected.keys() & got.keys()) if expected[name] != got[name]]
    parts = [f"{label} {', '.join(names)}" for label, names in
             (("absent:", absent), ("left over:", more), ("other:", other)) if names]  # fmt: skip
    return "; ".join(parts)
