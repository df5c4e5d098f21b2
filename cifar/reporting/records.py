"""What a report knows of a run: the files of its folder, read; none of them changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifar.errors import InputError
from cifar.runs import CROSSVAL, EVALUATION, METRICS, SUMMARY, check_run, read_json, read_metrics


@dataclass(frozen=True)
class Record:
    """One finished run.

    Attributes:
        name: what a report calls it, unlike every other's.
        folder: where it lies.
        summary: of summary.json, the recipe included.
        rows: of metrics.csv, one an epoch.
        found: what evaluations left, by the name of the file; a file that is not there is not in it.
    """

    name: str
    folder: Path
    summary: dict[str, Any]
    rows: list[dict[str, float]]
    found: dict[str, dict[str, Any]]


def read_records(folders: Sequence[Path], *, extras: Sequence[str] = ()) -> list[Record]:
    """Runs in the order given; a cross-validation stands for its folds.

    Args:
        folders: of runs or cross-validations; one that is named twice counts once.
        extras: names of JSON files to read beside evaluation.json, where they are.

    Raises:
        InputError: a folder is no run's, or its training is not finished.
        WorldError: a file is damaged.
    """
    runs: list[Path] = []
    for folder in dict.fromkeys(folders):
        runs += sorted(folder.glob("fold-*")) if (folder / CROSSVAL).exists() else [folder]
    names = distinct_names(runs)
    return [read_record(run, name=name, extras=extras) for run, name in zip(runs, names, strict=True)]


def read_record(folder: Path, *, name: str, extras: Sequence[str] = ()) -> Record:
    """See `read_records`."""
    check_run(folder)
    summary = read_json(folder / SUMMARY)
    if not summary["finished"] or not (folder / METRICS).exists():
        raise InputError(f"{folder} is not finished: `cifar train --resume {folder}` goes on with it.")
    found = {file: read_json(folder / file) for file in (EVALUATION, *extras) if (folder / file).exists()}
    return Record(name, folder, summary, read_metrics(folder), found)


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, for a fold with its cross-validation's; as many more of all as tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    least = [2 if part[-1].startswith("fold-") else 1 for part in parts]
    for more in range(max(map(len, parts), default=1)):
        names = ["/".join(part[-number - more :]) for part, number in zip(parts, least, strict=True)]
        if len(set(names)) == len(names):
            return names
    raise InputError("Two of the folders are the same one: name each run once.")
