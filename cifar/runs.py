"""The run folder on disk: the one interface between training and everything that comes after it.

    recipe.json          the Recipe, whole: enough to repeat the run
    metrics.csv          a row an epoch
    model.safetensors    the best weights (by validation accuracy), as the model's own state dict
    last.ckpt            everything needed to continue exactly
    summary.json         the result: accuracies as fractions, seeds, seconds, machine, versions, commit, data
    curves.png           drawn from metrics.csv
    evaluation.json, predictions.npz, confusion.png, reliability.png, mistakes.png    written by evaluation
    references.json      against people and known faults of the test set, by `cifar evaluate --references`
    corruptions.json, corruptions.png    on corrupted test images, by `cifar evaluate --corruptions`
    report.html          all of this on a page, by `cifar report`
    card.md              written by `cifar card`; `cifar push` gives it to the hub as README.md
    model.onnx, model-int8.onnx, export.json, exported/    written by `cifar export`

Every file is written whole: to a temporary name in the same folder, flushed, then renamed.
"""

import csv
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar.errors import InputError, WorldError
from cifar.files import write_bytes, write_text
from cifar.recipes import Recipe, read_recipe, to_json

if TYPE_CHECKING:
    from torch import Tensor, nn

RECIPE, METRICS, WEIGHTS, CHECKPOINT = "recipe.json", "metrics.csv", "model.safetensors", "last.ckpt"
SUMMARY, EVALUATION, PREDICTIONS, CROSSVAL = "summary.json", "evaluation.json", "predictions.npz", "crossval.json"
REFERENCES, CORRUPTIONS, REPORT, CARD = "references.json", "corruptions.json", "report.html", "card.md"
ONNX, ONNX_INT8, EXPORT, EXPORTED = "model.onnx", "model-int8.onnx", "export.json", "exported"
MISTAKES = "mistakes.png"
PICTURES = ("curves.png", "confusion.png", "reliability.png", MISTAKES, "corruptions.png")


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
    """Write metrics.csv, a row an epoch; a value that does not exist (no validation images) is an empty cell."""
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
    """Remove a former run's files, and nothing that a run did not write."""
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


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """Write recipe.json."""
    write_text(folder / RECIPE, to_json(recipe))


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

    Also of a cross-validation and of a folder that `cifar export` made; both are "" where a folder holds nothing but
    recipe and weights.

    Raises:
        WorldError: the file that tells is damaged.
    """
    for name in (CROSSVAL, SUMMARY, EXPORT):
        if (folder / name).exists():
            record = read_json(folder / name)
            return {key: str(record.get(key, "")) for key in ("data", "data_sha256")}
    return {"data": "", "data_sha256": ""}


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
