"""Evaluations that belong to no run: of weights that others trained, and on labelled images of one's own."""

import csv
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cifar.data.cifar10 import Dataset, load
from cifar.data.class_folders import fingerprint, original_positions
from cifar.data.split import CLASSES, NUM_TRAIN, Split
from cifar.errors import InputError, WorldError
from cifar.evaluation.evaluate import effect_of_temperature
from cifar.evaluation.predict import VIEWS, chosen_views
from cifar.files import write_bytes, write_json, write_text
from cifar.machine import choose_device
from cifar.models.foreign import Statistics, foreign_network
from cifar.pipeline.evaluation import measure
from cifar.pipeline.job import progress_of
from cifar.recipes import recipe_for, with_fields
from cifar.runs import EVALUATION, PREDICTIONS, is_run, predictions_bytes
from cifar.serving.classifier import Classifier
from cifar.serving.files import images_below
from cifar.serving.images import read_image
from cifar.training.display import Display

OWN_IMAGES = "own images"


def is_labelled_folder(path: Path) -> bool:
    """Whether a folder holds a folder of images for each of some classes, CLASS/NAME.jpg, and is no CIFAR-10."""
    if not path.is_dir() or (path / "train").is_dir() or (path / "test").is_dir():
        return False
    return any((path / name).is_dir() for name in CLASSES)


def read_labelled_folder(
    folder: Path,
    *,
    unreadable: Callable[[str], None],
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[list[str], Split]:
    """The images in a folder for each class, of any size and format: the central square, resized to 32×32.

    Args:
        folder: with folders that are named after classes, not all of which need be there; other folders are left out.
        unreadable: gets a sentence about each file that cannot be read and each folder that is left out.
        progress: gets files done and files in all.

    Returns:
        the names of the N files that were read, and their images and labels.

    Raises:
        InputError: no image can be read.
    """
    names: list[tuple[str, int]] = []
    for place in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if place.name not in CLASSES:
            unreadable(f"{place} is left out: its name is no class of CIFAR-10 ({', '.join(CLASSES)}).")
            continue
        try:
            names += [(name, CLASSES.index(place.name)) for name in images_below(place, unreadable=unreadable)]
        except InputError as error:  # it is empty
            unreadable(str(error))
    read = []
    for number, (name, label) in enumerate(names, 1):
        try:
            read.append((name, read_image(name), label))
        except (InputError, WorldError) as error:
            unreadable(str(error))
        progress(number, len(names))
    if not read:
        raise InputError(f"{folder} holds no images that can be read: put them into folders such as {folder / 'cat'}.")
    labels = torch.tensor([label for _, _, label in read])
    return [name for name, _, _ in read], Split(torch.stack([image for _, image, _ in read]), labels)


def evaluate_own_images(
    classifier: Classifier,
    folder: Path,
    *,
    name: str,
    views: str = "",
    output: Path | None = None,
    display: Display,
) -> tuple[dict[str, Any], bool]:
    """Evaluate a trained network on labelled images of one's own; a fitted temperature is judged on them.

    Args:
        classifier: the network.
        folder: as of `read_labelled_folder`; what is left out of it is said.
        name: of the network, for titles.
        views: TTA; "" is the recipe's.
        output, display: as of `evaluate_elsewhere`.

    Returns:
        what evaluation.json holds, and whether all files could be read.

    Raises:
        InputError, WorldError: as `read_labelled_folder` and `evaluate_elsewhere`.
    """
    views, below = chosen_views(classifier.recipe, views)
    left_out: list[str] = []
    files, part = read_labelled_folder(folder, unreadable=left_out.append, progress=progress_of(display, "reading"))
    if seen := training_images_among(part):
        left_out.append(f"{seen:,} of the images are training images of CIFAR-10: accuracy on them says little.")
    for sentence in left_out:
        display.say(sentence)
    evaluation = evaluate_elsewhere(
        classifier.network, part, identity={"run": name, "data": str(folder)}, split=OWN_IMAGES, views=views,
        below=below, temperature=classifier.temperatures.get(views), device=classifier.device, output=output,
        files=files, display=display,
    )  # fmt: skip
    return evaluation, not left_out[: len(left_out) - bool(seen)]


def foreign_classifier(weights: str, model: str, *, normalise: Statistics | None, device: str = "") -> Classifier:
    """A network with weights that others trained, without TTA and temperature; arguments as of `foreign_network`.

    Raises:
        InputError, WorldError: as `foreign_network`, or a device that is absent.
    """
    device = choose_device(device)
    recipe = with_fields(recipe_for(model or weights), views="none", views_below=1.0)
    return Classifier(foreign_network(weights, model, normalise=normalise), recipe, device, trained_on="")


def evaluate_test_images(
    classifier: Classifier,
    dataset: Dataset,
    *,
    name: str,
    views: str = "",
    output: Path | None = None,
    display: Display,
) -> dict[str, Any]:
    """Evaluate a network that is no run's on the test images; arguments and errors as of `evaluate_own_images`."""
    views, below = chosen_views(classifier.recipe, views)
    return evaluate_elsewhere(
        classifier.network, load(dataset, "test"), identity={"run": name, "data": dataset.name}, split="test",
        views=views, below=below, device=classifier.device, output=output, note=dataset.note, display=display,
    )  # fmt: skip


def evaluate_elsewhere(
    network: nn.Module,
    part: Split,
    *,
    identity: Mapping[str, str],
    split: str,
    views: str,
    below: float = 1.0,
    temperature: float | None = None,
    device: str,
    output: Path | None = None,
    files: Sequence[str] = (),
    note: str = "",
    display: Display,
) -> dict[str, Any]:
    """Evaluate a network on labelled images that are no run's business; nothing is fitted to them.

    Args:
        network: in evaluation mode.
        part: the images and their labels.
        identity: "run", what the network is called in titles, and "data".
        split: what the images are called.
        views, below: as in `predict`.
        temperature: that was fitted on other images; judged on these.
        device: cpu, mps or cuda.
        output: a folder for evaluation.json, predictions.npz and pictures, with files predictions.csv; None writes
            nothing.
        files: of the images, where they have any.
        note: what pictures must say.
        display: sees progress.

    Returns:
        what evaluation.json holds.

    Raises:
        InputError: no such TTA, or an output folder that holds a run.
        WorldError: as `measure`, or a file cannot be written.
    """
    if views not in VIEWS:
        raise InputError(f"There is no TTA {views!r}: choose from {', '.join(VIEWS)}.")
    if output and output.exists() and (not output.is_dir() or is_run(output)):
        what = "holds a run" if output.is_dir() else "is a file"
        raise InputError(f"{output} {what}: name another folder with --output.")
    digest = hashlib.sha256(part.images.contiguous().numpy().tobytes() + part.labels.numpy().tobytes()).hexdigest()
    probs, figures = measure(network, part, None, split=split, views=views, below=below, device=device, display=display)
    evaluation = {**identity, "views": views, "data_sha256": digest, **figures}
    if temperature is not None:
        effect = effect_of_temperature(probs, part.labels, temperature)
        evaluation["temperature_scaling"] = {"temperature": temperature, "fitted_on": "validation", **effect}
    if output:
        write_output(output, evaluation, part, probs, note=note)
        if files:
            write_text(output / "predictions.csv", table_of(files, part.labels, probs))
    return evaluation


def training_images_among(part: Split) -> int:
    """How many images are, bit for bit and with their labels, training images of CIFAR-10."""
    positions = original_positions()
    found = [
        positions.get(fingerprint(image, int(label)), []) for image, label in zip(*vars(part).values(), strict=True)
    ]
    return sum(any(position < NUM_TRAIN for position in places) for places in found)


def write_output(output: Path, evaluation: dict[str, Any], part: Split, probs: Tensor, *, note: str) -> None:
    """Write evaluation.json, predictions.npz and pictures into a folder, which need not exist."""
    from cifar.reporting.pictures import evaluation_pictures

    output.mkdir(parents=True, exist_ok=True)
    predictions = predictions_bytes(probs.numpy(), part.labels.numpy(), split=evaluation["split"])
    write_json(output / EVALUATION, evaluation)
    write_bytes(output / PREDICTIONS, predictions)
    for name, picture in evaluation_pictures(evaluation, part, probs, people=None, note=note).items():
        write_bytes(output / name, picture)


def table_of(files: Sequence[str], labels: Tensor, probs: Tensor) -> str:
    """A line for each image, as comma-separated values: file, class, predicted class and its probability."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "class", "predicted", "probability"])
    top, predicted = probs.max(dim=1)
    for name, label, guess, prob in zip(files, labels.tolist(), predicted.tolist(), top.tolist(), strict=True):
        writer.writerow([name, CLASSES[label], CLASSES[guess], f"{prob:.6f}"])
    return text.getvalue()
