"""A run to use elsewhere: an ONNX file with the same answers, its 8-bit version, or a plain folder of weights.

Nothing here writes: every function returns the contents of its files, and a record of what they are for export.json.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cifar import __version__
from cifar.data.cifar10 import Dataset, load, open_dataset, validation_split
from cifar.data.split import CLASSES, Split
from cifar.errors import InputError, WorldError
from cifar.evaluation.calibration import at_temperature
from cifar.evaluation.metrics import accuracy
from cifar.evaluation.predict import predict
from cifar.machine import describe_machine
from cifar.recipes import to_mapping
from cifar.runs import CHECKSUMS, EXPORT, RECIPE, WEIGHTS, data_of_run, run_recipe
from cifar.serving.classifier import Classifier, check_finite, load_model
from cifar.serving.onnx_file import INPUTS, open_session, run_session, to_onnx
from cifar.serving.quantise import quantise
from cifar.timing import in_turn, seconds

MAX_DIFFERENCE = 1e-4  # of a probability, between the network and its ONNX file
MAX_CALIBRATION = 1_000  # images
BATCH_SIZE = 100  # of the speed measurement


def export_folder(run: Path, target: Path, *, trust_code: bool = False) -> tuple[dict[str, bytes], dict[str, Any]]:
    """A run's weights and recipe, for a folder that `load_model` reads.

    Args:
        run: a run's folder, or an exported one.
        target: the folder that the files are for; it may be absent, empty, or hold an earlier export.
        trust_code: as of `load_model`.

    Returns:
        the contents of the files by name, export.json last, and the record that it holds.

    Raises:
        InputError: no run folder, or a target that holds something else.
        WorldError: the weights cannot be read.
    """
    classifier = load_model(run, device="cpu", trust_code=trust_code)
    if target.exists() and not (target.is_dir() and may_hold_export(target)):
        raise InputError(f"{target} already holds something else: choose another with --output.")
    if target.resolve() == run.resolve():
        raise InputError(f"{target} is the run itself: choose another folder with --output.")
    weights = (run / WEIGHTS).read_bytes()
    record = describe(run, classifier) | {"format": "safetensors", "file": WEIGHTS, "bytes": len(weights)}
    files = {WEIGHTS: weights, RECIPE: (run / RECIPE).read_bytes(), EXPORT: record_json(record).encode()}
    return files, record


def may_hold_export(target: Path) -> bool:
    """Whether a folder is empty or holds an earlier export, also one that was interrupted before export.json."""
    names = {entry.name for entry in target.iterdir() if not entry.name.endswith(".part")}
    return not names or EXPORT in names or {CHECKSUMS} <= names <= {CHECKSUMS, RECIPE, WEIGHTS}


def export_onnx(
    run: Path, *, name: str, kind: str = "float", calibrated: bool = True, opset: int = 0, trust_code: bool = False
) -> tuple[bytes, dict[str, Any]]:
    """A run's network as an ONNX file, if the file gives the network's own answers on the whole bundled sample.

    `images` [N, 3, 32, 32] go in and `probs` float32 [N, 10] come out, for any N. Normalisation, and a pretrained
    network's resize, are part of the file. Test-time augmentation is not: the file sees each image once, and whoever
    wants the mean over mirrored or shifted images passes those too. Classes, recipe, checksum of the data and version
    are in the file's metadata.

    Args:
        run: a run's folder, or an exported one.
        name: of the file, for the record.
        kind: of input: float, for pixels in [0, 1], or uint8, 0 to 255.
        calibrated: whether the file gives probabilities at the temperature that was fitted without TTA, if one was.
        opset: as of `to_onnx`.
        trust_code: as of `load_model`.

    Returns:
        the file, and the record for export.json; its "parity" says how closely the answers agree.

    Raises:
        InputError: no run folder.
        WorldError: the network cannot be exported, or the file's answers differ from its own.
    """
    assert kind in INPUTS, kind
    classifier = load_model(run, device="cpu", trust_code=trust_code)
    record = describe(run, classifier) | {"format": "onnx", "file": name}
    record |= {"input": f"images [N, 3, 32, 32]: {INPUTS[kind]}", "output": "probs [N, 10]: float32, rows sum to 1"}
    temperature = classifier.temperatures.get("none", 1.0) if calibrated else 1.0
    record["temperature"] = temperature
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in record.items()}
    metadata["recipe"] = json.dumps(to_mapping(classifier.recipe))
    model = to_onnx(classifier.network, kind=kind, metadata=metadata, temperature=temperature, opset=opset)
    parity = check_parity(model, classifier.network, temperature=temperature)
    return model, record | {"bytes": len(model), "parity": parity}


def describe(run: Path, classifier: Classifier) -> dict[str, Any]:
    """The part of the record that every export has, JSON-ready."""
    return {
        "run": run.resolve().name,
        "model": classifier.recipe.model,
        "classes": list(CLASSES),
        **data_of_run(run),
        "weights_sha256": hashlib.sha256((run / WEIGHTS).read_bytes()).hexdigest(),
        "recipe_views": classifier.recipe.tta.views,
        "temperatures": dict(classifier.temperatures),
        "cifar": __version__,
    }


def record_json(record: Mapping[str, Any]) -> str:
    """The text of export.json."""
    return json.dumps(record, indent=2, allow_nan=False) + "\n"


def check_parity(model: bytes, network: nn.Module, *, temperature: float = 1.0) -> dict[str, Any]:
    """Compare an ONNX file with its network on the 1,200 images of the sample, without reading a label.

    Args:
        model: the file.
        network: in evaluation mode, on the CPU.
        temperature: of the file's probabilities.

    Returns:
        the number of images and the largest difference of a probability.

    Raises:
        WorldError: the predicted class of an image differs, a probability differs by more than 1e-4, or the network
            gives no numbers.
    """
    sample = open_dataset("sample")
    images = torch.cat([load(sample, name).images for name in ("train", "test")])  # [1200, 3, 32, 32]
    network_probs, file_probs = predict(network, images), run_session(open_session(model), images)
    network_probs = at_temperature(network_probs, temperature) if temperature != 1 else network_probs
    check_finite(network_probs, of="The network")
    num_different = int((network_probs.argmax(dim=1) != file_probs.argmax(dim=1)).sum())
    difference = float((network_probs - file_probs).abs().max())
    if num_different or not difference <= MAX_DIFFERENCE:  # not: a NaN is refused too
        raise WorldError(
            f"The ONNX file would differ from the network: probabilities by up to {difference:.1e}, where "
            f"{MAX_DIFFERENCE:.0e} is allowed, and {num_different:,} of {len(images):,} classes. Nothing was written."
        )
    return {"images": len(images), "largest_difference": difference}


def int8_splits(run: Path, dataset: Dataset) -> tuple[Split, Split]:
    """The validation images of a run, divided at random (by the recipe's split_seed) for its 8-bit export.

    Args:
        run: a run's folder, or an exported one.
        dataset: the data that the run was trained on.

    Returns:
        a fifth, at most 1,000, to calibrate the ranges of the 8-bit numbers on; the rest, to measure accuracy on.

    Raises:
        InputError: other data than the run's, or a run without validation images.
    """
    recipe, data = run_recipe(run), data_of_run(run)
    if data["data_sha256"] != dataset.sha256:
        raise InputError(f"{run} was trained on {data['data'] or 'unknown data'}: give the same with --data.")
    validation = validation_split(dataset, holdout=recipe.holdout)
    if validation is None or len(validation) < 2:
        raise InputError(f"{run} held no validation images out, and 8-bit ranges are calibrated on no others.")
    order = torch.randperm(len(validation), generator=torch.Generator().manual_seed(recipe.holdout.split_seed))
    num_calibration = min(MAX_CALIBRATION, max(1, len(validation) // 5))
    return validation.select(order[:num_calibration]), validation.select(order[num_calibration:])


def export_int8(
    model: bytes, *, name: str, calibration: Split, validation: Split, repeats: int = 7
) -> tuple[bytes, dict[str, Any]]:
    """The 8-bit version of an exported ONNX file, and accuracy and speed of both on this machine.

    Args:
        model: the file of `export_onnx`.
        name: of the 8-bit file, for the record.
        calibration: images that decide the ranges of the 8-bit numbers.
        validation: other images, to measure on.
        repeats: speed measurements of each file; the two files alternate.

    Returns:
        the 8-bit file, and a JSON-ready record: "fp32" and "int8" with accuracy on the validation images, images per
        second (median, lowest, highest; in batches of 100) and bytes; the accuracy lost; machine and numbers of images.

    Raises:
        WorldError: onnxruntime is absent or cannot quantise the network.
    """
    models = {"fp32": model, "int8": quantise(model, calibration.images)}
    sessions = {kind: open_session(content) for kind, content in models.items()}
    probs = {kind: run_session(session, validation.images) for kind, session in sessions.items()}
    accuracies = {kind: accuracy(kind_probs, validation.labels) for kind, kind_probs in probs.items()}
    timed_images = validation.images[:1_000]
    speeds = in_turn(
        {kind: lambda session=session: images_per_second(session, timed_images) for kind, session in sessions.items()},  # type: ignore[misc]
        repeats=repeats,
    )
    figures = {
        kind: {
            "accuracy": accuracies[kind],
            "images_per_second": speeds[kind].median,
            "lowest": speeds[kind].low,
            "highest": speeds[kind].high,
            "bytes": len(models[kind]),
        }
        for kind in models
    }
    return models["int8"], {
        "file": name,
        **figures,
        "accuracy_lost": accuracies["fp32"] - accuracies["int8"],
        "other_classes": int((probs["fp32"].argmax(dim=1) != probs["int8"].argmax(dim=1)).sum()),
        "validation_images": len(validation),
        "calibration_images": len(calibration),
        "rounds": repeats,
        "batch_size": BATCH_SIZE,
        "machine": describe_machine(),
    }


def images_per_second(session: Any, images: Tensor) -> float:
    """The speed of an onnxruntime session on images, uint8 [N, 3, 32, 32], in batches of 100."""
    return len(images) / seconds(lambda: run_session(session, images, batch_size=BATCH_SIZE))
