"""A run to use elsewhere: an ONNX file that gives the same answers, its 8-bit version, or a plain folder of weights."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cifar import __version__
from cifar.data.cifar10 import Dataset, load, open_dataset
from cifar.data.split import CLASSES, Split
from cifar.errors import InputError, WorldError
from cifar.evaluation.metrics import accuracy
from cifar.evaluation.predict import predict
from cifar.evaluation.testing import validation_images
from cifar.files import write_bytes, write_json
from cifar.machine import describe_machine
from cifar.runs import EXPORT, RECIPE, WEIGHTS, data_of_run, run_recipe
from cifar.serving.classifier import Classifier, load_model
from cifar.serving.onnx_file import KINDS, open_session, run_session, to_onnx
from cifar.serving.quantise import quantise
from cifar.timing import in_turn, seconds

LARGEST_DIFFERENCE = 1e-4
MOST_CALIBRATION = 1_000


def export_folder(run: Path, target: Path) -> dict[str, Any]:
    """Copy a run's weights and recipe whole; `load_model` reads the copy.

    Args:
        run: a run's folder. target: made where it is absent; a former export in it is replaced.

    Returns:
        what export.json in the target holds.

    Raises:
        InputError: no run folder, or a target that holds other things.
        WorldError: the weights cannot be read.
    """
    classifier = load_model(run, device="cpu")
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and not (target / EXPORT).exists())):
        raise InputError(f"{target} holds other things already: choose another with --output.")
    if target.resolve() == run.resolve():
        raise InputError(f"{target} is the run itself, which holds recipe and weights: choose another with --output.")
    target.mkdir(parents=True, exist_ok=True)
    weights = (run / WEIGHTS).read_bytes()
    write_bytes(target / WEIGHTS, weights)
    write_bytes(target / RECIPE, (run / RECIPE).read_bytes())
    record = describe(run, classifier) | {"format": "safetensors", "file": WEIGHTS, "bytes": len(weights)}
    write_json(target / EXPORT, record)
    return record


def export_onnx(run: Path, path: Path, *, kind: str = "float") -> dict[str, Any]:
    """Write a run's network as an ONNX file, if it gives the network's own answers on the whole bundled sample.

    `images` [N, 3, 32, 32] go in, `probs` float32 [N, 10] come out, for any N. Normalisation, and a pretrained
    network's resize, are inside. Views are not: the file sees each image once, and whoever wants the mean over mirrored
    or shifted images feeds those too. Classes, recipe, checksum of the data and version are in the file's metadata.

    Args:
        run: a run's folder, or an exported one.
        path: of the file, whose folder exists.
        kind: float, for pixels in [0, 1], or uint8, for bytes.

    Returns:
        what `export.json` should hold, with how near both were under "parity".

    Raises:
        InputError: no run folder.
        WorldError: it cannot be exported, or its answers differ: nothing is written.
    """
    assert kind in KINDS, kind
    classifier = load_model(run, device="cpu")
    record = describe(run, classifier) | {"format": "onnx", "file": path.name}
    record |= {"input": f"images [N, 3, 32, 32]: {KINDS[kind]}", "output": "probs [N, 10]: float32, rows sum to 1"}
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in record.items()}
    metadata["recipe"] = json.dumps(dataclasses.asdict(classifier.recipe))
    model = to_onnx(classifier.network, kind=kind, metadata=metadata)
    parity = check_parity(model, classifier.network)
    write_bytes(path, model)
    return record | {"bytes": len(model), "parity": parity}


def describe(run: Path, classifier: Classifier) -> dict[str, Any]:
    """What every export says of itself, JSON-ready."""
    return {
        "run": run.resolve().name,
        "model": classifier.recipe.model,
        "classes": list(CLASSES),
        **data_of_run(run),
        "weights_sha256": hashlib.sha256((run / WEIGHTS).read_bytes()).hexdigest(),
        "recipe_views": classifier.recipe.views,
        "cifar": __version__,
    }


def check_parity(model: bytes, network: nn.Module) -> dict[str, Any]:
    """Compare an ONNX file with the network on the sample's 1,200 images; no label is read, so nothing is learnt of it.

    Returns:
        the number of images and the largest difference of a probability.

    Raises:
        WorldError: an image gets another class, or a probability differs by more than 1e-4.
    """
    sample = open_dataset("sample")
    images = torch.cat([load(sample, part).images for part in ("train", "test")])  # [1200, 3, 32, 32]
    ours, theirs = predict(network, images), run_session(open_session(model), images)
    num_other = int((ours.argmax(dim=1) != theirs.argmax(dim=1)).sum())
    difference = float((ours - theirs).abs().max())
    if num_other or not difference <= LARGEST_DIFFERENCE:  # not: a NaN is refused too
        raise WorldError(
            f"The ONNX file would differ from the network: probabilities by up to {difference:.1e}, where "
            f"{LARGEST_DIFFERENCE:.0e} is allowed, and {num_other:,} of {len(images):,} classes. Nothing was written."
        )
    return {"images": len(images), "largest_difference": difference}


@dataclass(frozen=True)
class Held:
    """A run's validation images in two parts.

    Attributes:
        calibration: a fifth, at most 1,000: they decide the ranges of the 8-bit numbers.
        rest: on which the accuracies are read.
    """

    calibration: Split
    rest: Split


def held_images(run: Path, dataset: Dataset) -> Held:
    """The validation images of a run, cut by chance (the recipe's split_seed) into those to calibrate on and the rest.

    Raises:
        InputError: other data than the run's, or a run without validation images.
    """
    recipe, data = run_recipe(run), data_of_run(run)
    if data["data_sha256"] != dataset.sha256:
        raise InputError(f"{run} was trained on {data['data'] or 'unknown data'}: give the same with --data.")
    held = validation_images(recipe, dataset)
    if held is None or len(held) < 2:
        raise InputError(f"{run} held no validation images out, and 8-bit ranges are never fitted to other ones.")
    order = torch.randperm(len(held), generator=torch.Generator().manual_seed(recipe.split_seed))
    num_calibration = min(MOST_CALIBRATION, max(1, len(held) // 5))
    return Held(held.select(order[:num_calibration]), held.select(order[num_calibration:]))


def export_int8(path: Path, target: Path, held: Held, *, repeats: int = 7) -> dict[str, Any]:
    """Write the 8-bit version of an exported ONNX file, and measure both in turn on this machine.

    Returns:
        JSON-ready: "fp32" and "int8" with accuracy on the images that were not calibrated on, images a second
        (median, lowest, highest; in batches of 100) and bytes; the accuracy lost; machine and numbers of images.

    Raises:
        WorldError: onnxruntime is absent or cannot quantise it.
    """
    models = {"fp32": path.read_bytes()}
    models["int8"] = quantise(models["fp32"], held.calibration.images)
    sessions = {name: open_session(model) for name, model in models.items()}
    probs = {name: run_session(session, held.rest.images) for name, session in sessions.items()}
    accuracies = {name: accuracy(found, held.rest.labels) for name, found in probs.items()}
    few = held.rest.images[:1_000]
    speeds = in_turn(
        {name: lambda session=session: measure_speed(session, few) for name, session in sessions.items()},  # type: ignore[misc]
        repeats=repeats,
    )
    write_bytes(target, models["int8"])
    figures = {
        name: {
            "accuracy": accuracies[name],
            "images_per_second": speeds[name].median,
            "lowest": speeds[name].low,
            "highest": speeds[name].high,
            "bytes": len(models[name]),
        }
        for name in models
    }
    return {
        "file": target.name,
        **figures,
        "accuracy_lost": accuracies["fp32"] - accuracies["int8"],
        "other_classes": int((probs["fp32"].argmax(dim=1) != probs["int8"].argmax(dim=1)).sum()),
        "validation_images": len(held.rest),
        "calibration_images": len(held.calibration),
        "rounds": repeats,
        "batch_size": 100,
        "machine": describe_machine(),
    }


def measure_speed(session: Any, images: Tensor) -> float:
    """Images a second in batches of 100."""
    return len(images) / seconds(lambda: run_session(session, images, batch_size=100))
