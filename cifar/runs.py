"""The run folder on disk: the interface between training and everything after it, and the only code that writes one.

    recipe.json          the Recipe, whole: enough to repeat the run
    metrics.csv          a row per epoch
    model.safetensors    the best weights (by validation accuracy), as the model's own state dict
    last.ckpt            everything needed to continue exactly
    summary.json         state and result: accuracies as fractions, seeds, seconds, machine, versions, commit, data
    curves.png           drawn from metrics.csv
    evaluation.json, predictions.npz, confusion.png, reliability.png, mistakes.png    written by evaluation
    references.json      against human labels and known faults of the test set, by `cifar evaluate --references`
    corruptions.json, corruptions.png    on corrupted test images, by `cifar evaluate --corruptions`
    report.html          all of this on a page, by `cifar report`
    card.md              written by `cifar card`; `cifar push` gives it to the hub as README.md
    model.onnx, model-int8.onnx, export.json, exported/    written by `cifar export`

A run's state, in summary.json, is "unfinished", "trained" (the best weights are final) or "tested" (so is the result).
Every file is written whole: to a temporary name in the same folder, flushed, then renamed.
"""

import csv
import io
import json
import shlex
import shutil
import tempfile
import uuid
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar.errors import InputError, WorldError
from cifar.files import write_bytes, write_json, write_text, write_whole
from cifar.recipes import Recipe, read_recipe, to_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

RECIPE, METRICS, WEIGHTS, CHECKPOINT = "recipe.json", "metrics.csv", "model.safetensors", "last.ckpt"
SUMMARY, EVALUATION, PREDICTIONS, CROSSVAL = "summary.json", "evaluation.json", "predictions.npz", "crossval.json"
REFERENCES, CORRUPTIONS, REPORT, CARD = "references.json", "corruptions.json", "report.html", "card.md"
ONNX, ONNX_INT8, EXPORT, EXPORTED = "model.onnx", "model-int8.onnx", "export.json", "exported"
MISTAKES = "mistakes.png"
PICTURES = ("curves.png", "confusion.png", "reliability.png", MISTAKES, "corruptions.png")
LOGS = ("tensorboard", "wandb")  # folders


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a run folder.

    Raises:
        WorldError: absent, unreadable or no JSON.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WorldError(f"{path}: {error.strerror or error}; is this the folder of a finished run?") from None
    except ValueError:
        raise WorldError(f"{path} is not JSON: it was changed or damaged since the run wrote it.") from None
    if not isinstance(value, dict):
        raise WorldError(f"{path} does not hold a JSON object: it was changed or damaged since the run wrote it.")
    return value


def write_metrics(folder: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write metrics.csv, a row per epoch; a value that does not exist (no validation images) is an empty cell.

    Args:
        folder: the run's.
        rows: an epoch each, with the same keys.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if value != value else value for key, value in row.items()})
    write_text(folder / METRICS, text.getvalue())


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv; an empty cell is NaN.

    Raises:
        WorldError: absent or damaged.
    """
    path = folder / METRICS
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [{key: float(value or "nan") for key, value in row.items()} for row in csv.DictReader(file)]
    except OSError as error:
        raise WorldError(f"{path}: {error.strerror or error}; is this the folder of a run?") from None
    except (ValueError, TypeError):
        raise WorldError(f"{path} is damaged: a cell is no number.") from None


def new_folder(folder: Path, *, overwrite: bool) -> Path:
    """Make an empty run folder.

    Raises:
        InputError: it cannot be made or written, or holds something and `overwrite` is false.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = sorted(entry.name for entry in folder.iterdir())
        if names and not overwrite:
            raise InputError(
                f"The folder {folder} is not empty: give --overwrite, --resume {folder} or another --save-folder."
            )
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"Cannot write to the folder {folder} ({error.strerror}): choose another with --save-folder."
        ) from None
    clear(folder)
    return folder


def clear(folder: Path) -> None:
    """Remove a former run's files, its logs included, and nothing that a run did not write."""
    if (folder / RECIPE).exists():
        for name in LOGS:
            shutil.rmtree(folder / name, ignore_errors=True)
    results = (SUMMARY, EVALUATION, PREDICTIONS, CROSSVAL, REFERENCES, CORRUPTIONS)
    made_of_them = (*PICTURES, REPORT, CARD, ONNX, ONNX_INT8, EXPORT)
    for name in (RECIPE, METRICS, WEIGHTS, CHECKPOINT, *results, *made_of_them):
        (folder / name).unlink(missing_ok=True)
    if (folder / EXPORTED / EXPORT).exists():
        clear(folder / EXPORTED)
        with suppress(OSError):  # it holds something else
            (folder / EXPORTED).rmdir()
    for fold in sorted(folder.glob("fold-*")):
        clear(fold)


def write_file(path: Path, content: bytes | str) -> None:
    """Write a file that belongs to a run, such as a picture, a report or an export, whole or not at all."""
    write_text(path, content) if isinstance(content, str) else write_bytes(path, content)


def remove_file(path: Path) -> None:
    """Remove a file that belongs to a run, if it is there."""
    path.unlink(missing_ok=True)


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files of a run by their names, such as its pictures."""
    for name, content in files.items():
        write_file(folder / name, content)


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a JSON file that belongs to a run, such as export.json, whole or not at all."""
    write_json(path, record)


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """Write recipe.json."""
    write_text(folder / RECIPE, to_json(recipe))


def update_summary(folder: Path, **changes: Any) -> dict[str, Any]:
    """Write summary.json with these fields changed, and give what it holds now."""
    path = folder / SUMMARY
    summary = (read_json(path) if path.exists() else {}) | changes
    write_json(path, summary)
    return summary


def run_state(summary: Mapping[str, Any]) -> str:
    """unfinished, trained or tested, as a summary says; those of older versions do not say it in a word."""
    if "state" in summary:
        return str(summary["state"])
    if not summary.get("finished"):
        return "unfinished"
    return "trained" if summary.get("test_accuracy") is None else "tested"


def how_computed(folder: Path) -> tuple[str, bool]:
    """The kernels that a run, or the first fold of a cross-validation, was computed with, and whether it was compiled.

    "" and false where the folder does not tell.
    """
    paths = (folder / SUMMARY, folder / "fold-0" / SUMMARY)
    summary = next((read_json(path) for path in paths if path.exists()), {})
    return str(summary.get("kernels", "")), bool(summary.get("compiled", False))


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


def write_evaluation(
    folder: Path, evaluation: Mapping[str, Any], probs: "NDArray[np.float32]", labels: "NDArray[np.int64]"
) -> None:
    """Write predictions.npz and evaluation.json.

    Args:
        folder: of the run.
        evaluation: JSON-ready, with the name of its split.
        probs: [N, 10]; labels: [N]; in the original order.
    """
    import numpy as np

    data = io.BytesIO()
    np.savez_compressed(data, probs=probs, labels=labels, split=np.array(evaluation["split"]))
    write_bytes(folder / PREDICTIONS, data.getvalue())
    write_json(folder / EVALUATION, evaluation)


def read_predictions(folder: Path) -> tuple["NDArray[np.float32]", "NDArray[np.int64]", str]:
    """Probabilities [N, 10], labels [N] and the name of the split of a run's last evaluation.

    Raises:
        WorldError: absent or damaged; names the command that makes them.
    """
    import numpy as np

    path, remedy = folder / PREDICTIONS, f"make it with `cifar evaluate {shlex.quote(str(folder))}`"
    try:
        with np.load(path) as arrays:
            return arrays["probs"], arrays["labels"], str(arrays["split"])
    except FileNotFoundError:
        remedy += ", which is counted as a test evaluation"
        raise WorldError(f"{folder} has no {PREDICTIONS}: {remedy}.") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise WorldError(f"{path} is damaged: {remedy} anew.") from None


def run_recipe(folder: Path) -> Recipe:
    """The recipe of a run.

    Raises:
        InputError: the folder is none of ours.
    """
    check_run(folder)
    return read_recipe(folder / RECIPE)


def check_run(folder: Path) -> None:
    """Raise InputError where a folder is none of ours."""
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
            return {key: str(record.get(key, "")) for key in ("data", "data_sha256")}
    return {"data": "", "data_sha256": ""}


def write_checkpoint(folder: Path, values: Mapping[str, Any]) -> None:
    """Write last.ckpt from tensors and plain values."""
    import torch

    write_whole(folder / CHECKPOINT, lambda file: torch.save(values, file))


def save_weights(folder: Path, state: Mapping[str, "Tensor"]) -> None:
    """Write model.safetensors from a state dict."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    write_bytes(folder / WEIGHTS, save(tensors))


def load_network(folder: Path) -> "nn.Module":
    """The trained network of a run, on the CPU, in evaluation mode.

    Raises:
        InputError: no run folder.
        WorldError: the weights are absent, damaged or of another network.
    """
    import safetensors
    from safetensors.torch import load_file

    from cifar.models import build_model

    recipe = run_recipe(folder)
    path = folder / WEIGHTS
    try:
        state = load_file(path)
    except FileNotFoundError:
        raise WorldError(f"{path} does not exist: the run has not finished its first epoch.") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise WorldError(f"{path} cannot be read ({error}): train again or restore the file.") from None
    model = build_model(recipe, pretrained=False)
    try:
        model.load_state_dict(state)
    except RuntimeError:
        raise WorldError(f"{path} does not fit the network {recipe.model}: it is another run's file.") from None
    return model.eval()
