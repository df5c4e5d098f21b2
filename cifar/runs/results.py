"""What training and evaluation find out: metrics.csv, evaluation.json, predictions.npz."""

import csv
import io
import shlex
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar.errors import WorldError
from cifar.files import json_text
from cifar.runs.names import EVALUATION, EXPORT, METRICS, PREDICTIONS, SUMMARY, WEIGHTS, evaluation_name
from cifar.runs.store import checksum, read_file, read_json, write_files

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COLUMNS = (
    "epoch", "learning_rate", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "seconds",
    "images_per_second",
)  # fmt: skip
MAX_ARRAY_BYTES = 32 * 2**20  # of predictions.npz, unpacked; those of 50,000 images have 2.4 MB


def metrics_text(rows: Sequence[Mapping[str, float]]) -> str:
    """The text of metrics.csv, a row per epoch; a value that does not exist (no validation images) is an empty cell.

    Args:
        rows: an epoch each, with the same keys.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if value != value else value for key, value in row.items()})
    return text.getvalue()


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv; an empty cell is NaN.

    Raises:
        WorldError: absent or damaged.
    """
    path = folder / METRICS
    try:
        lines = read_file(path).decode().splitlines()
    except FileNotFoundError as error:
        raise WorldError(f"{path}: {error.strerror}; is this the folder of a run?") from None
    except ValueError:
        raise WorldError(f"{path} is damaged: it is no text.") from None
    try:
        reader = csv.DictReader(lines, strict=True)
        if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
            raise WorldError(f"{path} is damaged: it lacks the column {missing[0]}.")
        return [{key: float(value or "nan") for key, value in row.items()} for row in reader]
    except (ValueError, TypeError, csv.Error):
        raise WorldError(f"{path} is damaged: a cell is no number.") from None


def write_evaluation(
    folder: Path,
    evaluation: Mapping[str, Any],
    probs: "NDArray[np.float32]",
    labels: "NDArray[np.int64]",
    *,
    recipe_views: str,
) -> None:
    """Write evaluation.json and predictions.npz, under names of their own for each split and TTA.

    Args:
        folder: of the run.
        evaluation: JSON-ready, with the names of its split and TTA.
        probs: [N, 10]; labels: [N]; in the original order.
        recipe_views: TTA of the recipe.
    """
    predictions = predictions_bytes(probs, labels, split=evaluation["split"])
    which = {"split": evaluation["split"], "views": evaluation["views"], "recipe_views": recipe_views}
    names = [evaluation_name(name, **which) for name in (PREDICTIONS, EVALUATION)]
    write_files(folder, dict(zip(names, (predictions, json_text(evaluation)), strict=True)))


def predictions_bytes(probs: "NDArray[np.float32]", labels: "NDArray[np.int64]", *, split: str) -> bytes:
    """The content of predictions.npz: probs [N, 10], labels [N] and the name of their split."""
    import numpy as np

    data = io.BytesIO()
    np.savez_compressed(data, probs=probs, labels=labels, split=np.array(split))
    return data.getvalue()


def read_temperatures(folder: Path) -> dict[str, float]:
    """The temperatures that test evaluations of a run's weights fitted on its validation images, by TTA.

    Args:
        folder: of a run, or an exported one, whose export.json holds them.

    Raises:
        WorldError: a file that tells is damaged.
    """
    if (folder / EXPORT).exists() and not (folder / SUMMARY).exists():
        return dict(read_json(folder / EXPORT).get("temperatures", {}))
    found, weights = {}, checksum(folder / WEIGHTS)
    for path in sorted(folder.glob("evaluation*.json")):
        evaluation = read_json(path)
        scaling, of_test = evaluation.get("temperature_scaling"), evaluation.get("split") == "test"
        if scaling and of_test and evaluation.get("model_sha256", weights) == weights:  # older versions did not say
            found[str(evaluation["views"])] = float(scaling["temperature"])
    return found


def read_predictions(
    folder: Path, *, split: str = "test", views: str = "", recipe_views: str = ""
) -> tuple["NDArray[np.float32]", "NDArray[np.int64]", str]:
    """Probabilities [N, 10], labels [N] and the name of the split of an evaluation; by default of the run's result.

    Args:
        folder: of the run.
        split, views: of the evaluation.
        recipe_views: TTA of the recipe.

    Raises:
        WorldError: absent or damaged; names the command that makes them.
    """
    import numpy as np

    name = evaluation_name(PREDICTIONS, split=split, views=views, recipe_views=recipe_views)
    flags = "" if name == PREDICTIONS else f" --split {split} --tta {views}"
    path, remedy = folder / name, f"make it with `cifar evaluate {shlex.quote(str(folder))}{flags}`"
    try:
        content = io.BytesIO(read_file(path))
        with zipfile.ZipFile(content) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_ARRAY_BYTES:
                raise ValueError("larger than any predictions")
        with np.load(content, allow_pickle=False) as arrays:
            probs, labels, stored = arrays["probs"], arrays["labels"], arrays["split"]
        check_predictions(probs, labels, stored)
    except FileNotFoundError:
        remedy += ", which is counted as a test evaluation" * (split == "test")
        raise WorldError(f"{folder} has no {name}: {remedy}.") from None
    except WorldError:
        raise
    except Exception:  # numpy, zipfile, zlib and tokenize each have their own for a damaged file
        raise WorldError(f"{path} is damaged: {remedy} anew.") from None
    return probs, labels, str(stored)


def check_predictions(probs: "NDArray[Any]", labels: "NDArray[Any]", split: "NDArray[Any]") -> None:
    """Refuse arrays that are no predictions.

    Raises:
        ValueError: says why.
    """
    import numpy as np

    if probs.dtype != np.float32 or probs.ndim != 2 or probs.shape[1] != 10:
        raise ValueError("probs are not float32 [N, 10]")
    if labels.dtype != np.int64 or labels.shape != probs.shape[:1] or not len(labels):
        raise ValueError("labels are not int64 [N]")
    if labels.min() < 0 or labels.max() > 9:
        raise ValueError("labels are not 0 to 9")
    if split.dtype.kind != "U" or split.ndim:
        raise ValueError("split is no name")
    if not (np.isfinite(probs).all() and (probs >= 0).all() and np.allclose(probs.sum(axis=1), 1, atol=1e-3)):
        raise ValueError("probs do not sum to 1")
