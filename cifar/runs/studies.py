"""The folder of a study: many runs of one recipe (seeds, folds, a search), which workers share.

study.json     the recipe, what varies, how many trials, and where the queue is
journal.log    the queue, where it is not in a database; Optuna writes it
claims/        locks: one of the queue, one of each trial that a worker has
seed-0-…, fold-0-…, …    a run for each recipe, named by its hash
"""

import hashlib
import re
import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cifar.data.processes import hold
from cifar.errors import InputError, Remark, WorldError
from cifar.files import json_text
from cifar.recipes import Recipe, to_json
from cifar.runs.creation import new_run
from cifar.runs.names import CHECKSUMS, CLAIMS, STUDY, SUMMARY
from cifar.runs.store import explained, read_json
from cifar.runs.summary import is_run, run_state


def is_study(folder: Path) -> bool:
    """Whether a folder is that of a study."""
    return (folder / STUDY).is_file()


def read_study(folder: Path) -> dict[str, Any]:
    """What study.json holds.

    Raises:
        InputError: the folder is no study's.
        WorldError: the file is damaged.
    """
    if not is_study(folder):
        raise InputError(f"{folder} holds no study: `cifar sweep new {shlex.quote(str(folder))} -m MODEL` begins one.")
    return read_json(folder / STUDY)


def new_study(folder: Path, record: Mapping[str, Any]) -> None:
    """Create the folder of a study, whole.

    Args:
        folder: absent or empty.
        record: what study.json holds.

    Raises:
        InputError: the folder holds something, or cannot be made.
        WorldError: it cannot be written.
    """
    check_free_for_study(folder)
    with new_run(folder, overwrite=False) as create:
        create({STUDY: json_text(record)})


def check_free_for_study(folder: Path) -> None:
    """Raise InputError where a folder holds something, and say what helps."""
    if is_study(folder):
        path = shlex.quote(str(folder))
        raise InputError(f"{folder} holds a study already: `cifar sweep work {path}` goes on, or name another folder.")
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - {CHECKSUMS}):
        raise InputError(f"{folder} is not empty: name another folder for the study.")


def run_name(recipe: Recipe, *, kind: str) -> str:
    """The name of a run's folder in its study: the hash of its recipe, after its seed or fold.

    Args:
        recipe: of the run.
        kind: of the study: seeds, folds or search.
    """
    prefix = {"seeds": f"seed-{recipe.seed}-", "folds": f"fold-{recipe.holdout.fold}-", "search": ""}[kind]
    return prefix + hashlib.sha256(to_json(recipe).encode()).hexdigest()[:8]


@contextmanager
def held_queue(folder: Path) -> Iterator[None]:
    """Hold the queue of a study: one process at a time takes a trial or ends one.

    Raises:
        WorldError: the folder has no locks, or cannot be written.
    """
    with explained(folder):
        (folder / CLAIMS).mkdir(exist_ok=True)
    with hold(folder / CLAIMS / "queue", waiting=lambda: None) as is_held:
        if not is_held:
            raise WorldError(
                f"No lock can be had in {folder / CLAIMS}, so that workers would train the same trial: put the study "
                "into a folder of yours on a file system with locks (flock), such as a local disk or NFS 4."
            )
        yield


@contextmanager
def claimed(folder: Path, number: int) -> Iterator[bool]:
    """Hold a trial of a study, while the queue is held; yields whether no other process has it.

    The lock ends with its process, however that ends, so it says which trials live.
    """
    with hold(folder / CLAIMS / f"trial-{number}", waiting=None) as is_held:
        yield is_held


def study_runs(folder: Path) -> list[Path]:
    """The runs of a study that have begun, in the order of their seeds or folds."""
    runs = [path for path in folder.iterdir() if path.is_dir() and is_run(path)]
    return sorted(runs, key=lambda path: [int(part) if part.isdecimal() else part for part in split_digits(path.name)])


def split_digits(name: str) -> list[str]:
    """A name cut into text and numbers, in turn, beginning with text."""
    return re.split(r"(\d+)", name)


def expand_studies(folders: Sequence[Path]) -> list[Path]:
    """Folders of runs and cross-validations, with the tested runs of a study in the place of its folder.

    A `Remark` says where a study has more runs than these.

    Raises:
        InputError: a study has no tested run; names the command that makes some.
        WorldError: a file is damaged.
    """
    return [run for folder in folders for run in (tested_runs(folder) if is_study(folder) else [folder])]


def tested_runs(folder: Path) -> list[Path]:
    """The tested runs of a study, as of `expand_studies`."""
    record = read_study(folder)
    runs = [run for run in study_runs(folder) if run_state(read_json(run / SUMMARY)) == "tested"]
    path, trials = shlex.quote(str(folder)), record["trials"]
    if not runs and record["kind"] == "search":
        raise InputError(f"{folder} has no tested run: `cifar sweep show {path} --test` evaluates the best one.")
    if not runs:
        raise InputError(f"{folder} has no tested run yet: `cifar sweep work {path}` makes them.")
    if record["kind"] != "search" and len(runs) < trials:
        sentence = f"{folder}: {len(runs)} of {trials} runs are tested, and the others are left out."
        warnings.warn(sentence, Remark, stacklevel=3)
    return runs
