"""summary.json and recipe.json of a run: its state, what it was asked for, and what became of it."""

import shlex
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cifar.errors import InputError, WorldError
from cifar.files import json_text, read_regular
from cifar.recipes import Recipe, from_mapping, parse_recipe, to_json, to_mapping
from cifar.runs.names import CROSSVAL, EXPORT, MARKERS, RECIPE, STUDY, SUMMARY
from cifar.runs.store import MAX_TEXT_BYTES, read_checksums, read_file, read_json, write_files

CHANGEABLE = ("lr", "epochs", "skip_bad_steps")  # fields of a recipe that --resume may change on purpose


def first_files(recipe: Recipe, record: Mapping[str, Any], *, marker: str = SUMMARY) -> dict[str, str]:
    """What a run folder is created from: its recipe, then the file that makes it a run.

    Args:
        recipe: of the run.
        record: what the marker holds.
        marker: summary.json, or crossval.json for a cross-validation.
    """
    return {RECIPE: to_json(recipe), marker: json_text(record)}


def update_summary(folder: Path, **changes: Any) -> dict[str, Any]:
    """Write summary.json with these fields changed, and give what it holds now."""
    summary = read_json(folder / SUMMARY) | changes
    write_files(folder, {SUMMARY: json_text(summary)})
    return summary


def change_recipe(folder: Path, recipe: Recipe, **changes: Any) -> dict[str, Any]:
    """Give a run another recipe, which recipe.json and summary.json hold, with other fields of the summary changed."""
    summary = read_json(folder / SUMMARY) | {"recipe": to_mapping(recipe)} | changes
    write_files(folder, {SUMMARY: json_text(summary), RECIPE: to_json(recipe)})
    return summary


def run_state(summary: Mapping[str, Any]) -> str:
    """unfinished, trained or tested, as a summary says; those of older versions do not say it in a word."""
    if "state" in summary:
        return str(summary["state"])
    if not summary.get("finished"):
        return "unfinished"
    return "trained" if summary.get("test_accuracy") is None else "tested"


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run or cross-validation that has begun."""
    return any((folder / name).is_file() for name in MARKERS)


def check_begun(folder: Path) -> None:
    """Refuse to go on with what is no run.

    Raises:
        InputError: no run folder.
        WorldError: what a run left lacks its summary.
    """
    check_run(folder)
    if not is_run(folder):
        raise WorldError(
            f"{folder} lacks {SUMMARY}, so nothing says how far the run is: restore the file, "
            "or train again with --overwrite."
        )


def how_computed(folder: Path) -> dict[str, Any]:
    """How a run, or the first fold of a cross-validation, was computed: device, kernels, compiled, deterministic,
    sync_batchnorm; as far as it tells.
    """
    names = ("device", "kernels", "compiled", "deterministic", "sync_batchnorm")
    paths = (folder / SUMMARY, folder / "fold-0" / SUMMARY)
    summary = next((read_json(path) for path in paths if path.exists()), {})
    return {name: summary[name] for name in names if name in summary}


def count_test_evaluation(folder: Path, *, purpose: str) -> None:
    """Record that the test split is opened now, before it is: an evaluation that fails half-way has happened.

    Args:
        folder: the run's.
        purpose: why it is opened.
    """
    entry = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "purpose": purpose}
    update_summary(folder, test_readings=[*read_json(folder / SUMMARY)["test_readings"], entry])


def wandb_id(folder: Path) -> str:
    """The id of a run on Weights & Biases: unique, and the same whenever the run is resumed."""
    found = read_json(folder / SUMMARY).get("wandb_id") or uuid.uuid4().hex[:12]
    update_summary(folder, wandb_id=found)
    return str(found)


def run_recipe(folder: Path) -> Recipe:
    """The recipe of a run.

    Raises:
        InputError: the folder is none of ours, or the file holds no recipe.
        WorldError: it was changed since the run wrote it, or cannot be read.
    """
    check_run(folder)
    try:
        content = read_file(folder / RECIPE)
    except WorldError:
        check_unchanged(folder)  # names the field
        raise
    return parse_recipe(content, origin=str(folder / RECIPE))


def recipe_to_resume(folder: Path) -> Recipe:
    """The recipe that a run goes on by: that of summary.json, with which recipe.json must agree.

    A process may have ended between the two when a rate was changed on purpose; then recipe.json is still the former.

    Raises:
        InputError: no run folder, or recipe.json was changed since the run began; names the field.
        WorldError: summary.json is missing or a file was changed.
    """
    check_begun(folder)
    check_unchanged(folder)
    recipe, record = run_recipe(folder), recorded_recipe(folder)
    return recipe if record is None else from_mapping(to_mapping(recipe) | record, origin=str(folder / SUMMARY))


def recorded_recipe(folder: Path) -> dict[str, Any] | None:
    """The recipe in summary.json, or in crossval.json; None where there is none."""
    for name in MARKERS:
        if (folder / name).is_file():
            return read_json(folder / name).get("recipe")
    return None


def check_unchanged(folder: Path) -> None:
    """Refuse a recipe.json that differs from the recipe in summary.json or crossval.json.

    Raises:
        InputError: names the field.
    """
    path, record = folder / RECIPE, recorded_recipe(folder)
    if record is None:
        return
    recipe = parse_recipe(read_regular(path, limit=MAX_TEXT_BYTES), origin=str(path))
    if RECIPE in read_checksums(folder):
        try:
            read_file(path)
        except WorldError:
            pass
        else:  # as the run wrote it
            record = {name: value for name, value in record.items() if name not in CHANGEABLE}
    check_same(to_mapping(recipe), record, origin=str(path), of="the run")


def check_same(values: Mapping[str, Any], former: Mapping[str, Any], *, origin: str, of: str) -> None:
    """Refuse a recipe that differs from the one that a run began with.

    Args:
        values, former: fields by flat names; those of newer versions may be missing in `former`.
        origin, of: name the two files in the error.

    Raises:
        InputError: names the first field that differs.
    """
    for name, value in former.items():
        if name in values and values[name] != value:
            raise InputError(
                f"{origin} was changed since the run began: {name} is {values[name]}, and {value} in {of}. "
                "Restore it; a learning rate is changed on purpose by --resume with -l."
            )


def check_run(folder: Path) -> None:
    """Raise InputError where a folder is none of ours, or that of a study."""
    if (folder / STUDY).is_file():
        path = shlex.quote(str(folder))
        raise InputError(f"{folder} holds a study: `cifar sweep work {path}` goes on; or name one of the runs in it.")
    if not (folder / RECIPE).is_file():
        raise InputError(f"{folder} is not a run folder: it holds no {RECIPE}.")


def data_of_run(folder: Path) -> dict[str, str]:
    """The name and checksum of the data set that a run was trained on, under "data" and "data_sha256".

    Also of a cross-validation and of a folder that `cifar export` wrote; both are "" where a folder holds only recipe
    and weights.

    Raises:
        WorldError: the file that tells is damaged.
    """
    for name in (CROSSVAL, SUMMARY, EXPORT):
        if (folder / name).exists():
            record = read_json(folder / name)
            return {key: str(record[key]) for key in ("data", "data_sha256")}
    return {"data": "", "data_sha256": ""}
