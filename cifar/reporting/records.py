"""What run folders hold, read for everything after training: summaries, evaluations, predictions. Nothing is changed.

Reading predictions opens no image and no model, so it is no new test evaluation: those were counted when the
predictions were made.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from cifar.errors import InputError, WorldError
from cifar.evaluation.comparison import EvaluatedRun, check_comparable
from cifar.runs import (
    CROSSVAL,
    EVALUATION,
    PREDICTIONS,
    SUMMARY,
    check_run,
    evaluation_name,
    expand_studies,
    is_study,
    read_json,
    read_metrics,
    read_predictions,
    run_recipe,
    run_state,
)


@dataclass(frozen=True)
class Record:
    """A tested run.

    Attributes:
        name: what a report calls it, unlike every other's.
        folder: where it lies.
        summary: of summary.json, the recipe included.
        rows: of metrics.csv, one per epoch.
        evaluations: what evaluations left, by the name of the file; a file that is not there is not in it.
    """

    name: str
    folder: Path
    summary: dict[str, Any]
    rows: list[dict[str, float]]
    evaluations: dict[str, dict[str, Any]]


@contextmanager
def showing(folder: Path) -> Iterator[None]:
    """Turn what goes wrong while something is made of a run folder's values into one sentence.

    Raises:
        WorldError: a file holds values of another kind than a run writes.
    """
    from jinja2 import TemplateError

    try:
        yield
    except InputError:
        raise
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TemplateError,
        TypeError,
        ValueError,
    ) as error:
        reason = " ".join(f"{error}".split())[:200] or type(error).__name__
        raise WorldError(
            f"{folder} holds values of another kind than a run writes ({reason}): its files were changed or damaged."
        ) from None


def read_records(folders: Sequence[Path], *, extras: Sequence[str] = ()) -> list[Record]:
    """Return runs in the order given; a cross-validation stands for its folds, a study for its tested runs.

    Args:
        folders: of runs, cross-validations or studies; one that is named twice counts once.
        extras: names of JSON files to read beside evaluation.json, where they are.

    Raises:
        InputError: a folder is no run's, or the run has no test result yet; names the command that makes it.
        WorldError: a file is damaged.
    """
    runs: list[Path] = []
    for folder in expand_studies(list(dict.fromkeys(folders))):
        runs += sorted(folder.glob("fold-*")) if (folder / CROSSVAL).exists() else [folder]
    names = distinct_names(runs)
    return [read_record(run, name=name, extras=extras) for run, name in zip(runs, names, strict=True)]


def read_record(folder: Path, *, name: str, extras: Sequence[str] = ()) -> Record:
    """Return the record of a run.

    Args:
        folder: of the run.
        name: what to call it.
        extras: as of `read_records`, whose errors this raises.
    """
    check_run(folder)
    summary = read_json(folder / SUMMARY)
    state, path = run_state(summary), shlex.quote(str(folder))
    if state == "unfinished":
        raise InputError(f"{folder} is not finished: `cifar train --resume {path}` continues it.")
    if state == "trained":
        raise InputError(f"{folder} has no test result yet: `cifar evaluate {path}` makes it.")
    evaluations = {file: read_json(folder / file) for file in (EVALUATION, *extras) if (folder / file).exists()}
    for file in set(extras) - set(evaluations):  # corruptions, say, that were evaluated with one view only
        for other in sorted(folder.glob(f"{Path(file).stem}-test-*.json"))[:1]:
            evaluations[file] = read_json(other)
    return Record(name, folder, summary, read_metrics(folder), evaluations)


def read_evaluated_runs(folders: Sequence[Path], *, split: str = "test", views: str = "") -> list[EvaluatedRun]:
    """Return evaluations of runs, which are comparable, by the names that `read_records` gives them.

    Args:
        folders: of runs, or of studies, which stand for their tested runs.
        split, views: of the evaluations; views of "" are those of each run's recipe.

    Raises:
        InputError: a folder given twice or of no run, or runs that differ in their images (`check_comparable`).
        WorldError: no predictions yet, or damaged ones.
    """
    folders = expand_studies(folders)
    names = distinct_names(folders)
    which = {"split": split, "views": views}
    runs = [read_evaluated_run(folder, name=name, **which) for folder, name in zip(folders, names, strict=True)]
    check_comparable(runs)
    return runs


def read_evaluated_run(folder: Path, *, name: str, split: str = "test", views: str = "") -> EvaluatedRun:
    """Return an evaluation of a run.

    Args:
        folder: of the run.
        name: what to call it.
        split, views: of the evaluation; views of "" are those of the recipe.

    Raises:
        InputError: no run folder.
        WorldError: it has no predictions, or they cannot be read; names the command that makes them.
    """
    if (folder / CROSSVAL).exists():
        raise InputError(f"{folder} holds a cross-validation: compare its folds, such as {folder / 'fold-0'}.")
    recipe = run_recipe(folder)
    which = {"split": split, "views": views or recipe.tta.views, "recipe_views": recipe.tta.views}
    probs, labels, split = read_predictions(folder, **which)
    evaluation, summary = read_json(folder / evaluation_name(EVALUATION, **which)), read_json(folder / SUMMARY)
    if (split, probs.shape) != (evaluation["split"], (evaluation["num_images"], 10)) or len(labels) != len(probs):
        raise WorldError(
            f"{folder / PREDICTIONS} and {EVALUATION} beside it are of two evaluations: "
            f"make them with `cifar evaluate {shlex.quote(str(folder))}` anew."
        )
    return EvaluatedRun(
        name=name,
        folder=folder,
        recipe=recipe,
        data=evaluation["data"],
        data_sha256=evaluation["data_sha256"],
        split=split,
        views=evaluation.get("views", recipe.tta.views),
        num_test_evaluations=len(summary["test_readings"]),
        computed=computed_of(summary),
        probs=probs,
        labels=labels,
    )


def computed_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return what besides recipe and seed decides the bits of a run; of older versions not everything is known."""
    machine = summary["machine"]
    names = ("device", "threads", "kernels", "precision", "compiled", "commit")
    processor = " ".join(filter(None, (machine.get("processor_model"), machine.get("instructions"))))
    where = {"processor": ", ".join(machine["gpus"]) or processor, "PyTorch": summary["versions"].get("torch")}
    return {name: summary.get(name) for name in names} | where


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """Return the last part of each path, for a run of a cross-validation or study with its; more where names are equal.

    Args:
        folders: of runs.

    Raises:
        InputError: a folder is given twice.
    """
    paths = [folder.resolve() for folder in folders]
    for folder, path in zip(folders, paths, strict=True):
        if paths.count(path) > 1:
            raise InputError(f"{folder} is given twice: name each run once.")
    fewest = [2 if path.name.startswith("fold-") or is_study(path.parent) else 1 for path in paths]

    def longer_by(more: int) -> list[str]:
        return ["/".join(path.parts[-number - more :]) for path, number in zip(paths, fewest, strict=True)]

    more = next(more for more in count() if len(set(longer_by(more))) == len(paths))
    return longer_by(more)
