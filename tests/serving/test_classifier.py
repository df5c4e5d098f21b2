"""`load_model(run).predict(images)`: the same predictions for every form of input."""

import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scripts_by_path import ROOT
from torch import Tensor
from untrained_runs import make_untrained

from cifar import load_model
from cifar.data.cifar10 import Dataset, load
from cifar.data.split import CLASSES
from cifar.errors import InputError, WorldError
from cifar.evaluation.predict import predict
from cifar.files import write_json
from cifar.recipes import recipe_for, to_json
from cifar.runs import RECIPE, load_network
from cifar.serving.classifier import Classifier, to_images


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a CNN with random weights whose recipe averages over two views."""
    return make_untrained(tmp_path_factory.mktemp("runs") / "cnn", "cnn", "views=mirror")


@pytest.fixture(scope="module")
def classifier(run: Path) -> Classifier:
    return load_model(run, device="cpu")


@pytest.fixture(scope="module")
def images(sample: Dataset) -> Tensor:
    return load(sample, "train").images[:7]


def test_every_form_of_input_gives_the_same_predictions(classifier: Classifier, images: Tensor, tmp_path: Path) -> None:
    channels_last = images.permute(0, 2, 3, 1)
    pictures = [Image.fromarray(image.numpy()) for image in channels_last]
    paths = [tmp_path / f"{number}.png" for number in range(len(images))]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    mixed = [paths[0], str(paths[1]), pictures[2], io.BytesIO(paths[3].read_bytes()), images[4]]
    mixed += [channels_last[5].numpy(), channels_last[6]]
    expected = classifier.predict(images).probs
    for given in (
        channels_last, images.numpy(), channels_last.numpy(), list(images), list(channels_last.numpy()), pictures,
        tuple(paths), list(map(str, paths)), mixed, channels_last.flip(0).flip(0), channels_last.numpy()[::-1][::-1],
    ):  # fmt: skip
        assert torch.equal(classifier.predict(given).probs, expected)
    for image in (images[0], channels_last[0], channels_last[0].numpy(), pictures[0], paths[0], str(paths[0])):
        assert classifier.predict(image).probs.shape == (1, 10)
        torch.testing.assert_close(classifier.predict(image).probs, expected[:1])


def test_predictions_equal_those_of_the_evaluation(classifier: Classifier, run: Path, images: Tensor) -> None:
    for views in ("none", "mirror", "shift"):
        expected = predict(load_network(run), images, views=views)
        assert torch.equal(classifier.predict(images, views=views).probs, expected)
    expected = predict(load_network(run), images, views="mirror")
    assert torch.equal(classifier.predict(images).probs, expected)
    torch.testing.assert_close(classifier.predict(images, batch_size=2).probs, expected)


def test_predictions_have_probabilities_labels_names_and_top_classes(classifier: Classifier, images: Tensor) -> None:
    predictions = classifier.predict(images)
    assert len(predictions) == 7
    assert predictions.probs.dtype == torch.float32
    torch.testing.assert_close(predictions.probs.sum(1), torch.ones(7))
    assert predictions.classes == CLASSES
    assert predictions.names == [CLASSES[label] for label in predictions.labels.tolist()]
    for probs, row in zip(predictions.probs, predictions.top(10), strict=True):
        assert row == sorted(zip(CLASSES, probs.tolist(), strict=True), key=lambda pair: -pair[1])
    assert [row[0][0] for row in predictions.top(1)] == predictions.names
    for wrong in (0, 11, -1):
        with pytest.raises(InputError, match="10 classes"):
            predictions.top(wrong)


@pytest.mark.parametrize("nothing", [[], (), np.zeros((0, 32, 32, 3), np.uint8), torch.zeros(0, 3, 32, 32).byte()])
def test_no_images_give_no_predictions(classifier: Classifier, nothing: object) -> None:
    predictions = classifier.predict(nothing)  # type: ignore[arg-type]
    assert predictions.probs.shape == (0, 10)
    assert predictions.names == predictions.top(2) == []


@pytest.mark.parametrize(
    "wrong, words",
    [
        (torch.zeros(3, 32, 32), "torch.float32"),
        (np.zeros((1, 32, 32, 3)), "float64"),
        (torch.zeros(3, 32, 32, dtype=torch.int64), "int64"),
        (np.zeros((32, 32), np.uint8), r"\[32, 32\]"),
        (np.zeros((5, 32, 32), np.uint8), r"\[5, 32, 32\]"),
        (np.zeros((64, 64, 3), np.uint8), r"\[64, 64, 3\]"),
        (np.zeros((2, 32, 32, 4), np.uint8), r"\[2, 32, 32, 4\]"),
        (np.zeros((1, 1, 3, 32, 32), np.uint8), r"\[1, 1, 3, 32, 32\]"),
        (np.zeros((), np.uint8), r"\[\]"),
        ([np.zeros((2, 32, 32, 3), np.uint8)], "each must be one image"),
        ([5], "int is not an image"),
        (b"bytes", "bytes is not an image"),
        (None, "NoneType is not an image"),
        (iter([]), "is not an image"),
        ("nowhere.png", "no file nowhere.png"),
        (["nowhere.png"], "no file nowhere.png"),
    ],
)
def test_wrong_input_is_refused_in_one_sentence(wrong: object, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        to_images(wrong)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_unknown_views_are_refused(classifier: Classifier, images: Tensor) -> None:
    with pytest.raises(InputError, match="none, mirror, shift"):
        classifier.predict(images, views="crop")


def test_folders_without_a_loadable_network_are_refused(run: Path, tmp_path: Path) -> None:
    assert load_model(str(run)).trained_on == ""
    with pytest.raises(InputError, match="not a run folder"):
        load_model(tmp_path)
    with pytest.raises(InputError, match="cpu, mps or cuda"):
        load_model(run, device="tpu")
    (tmp_path / RECIPE).write_text(to_json(recipe_for("cnn")))
    with pytest.raises(WorldError, match=r"model\.safetensors does not exist: the run has not finished"):
        load_model(tmp_path)
    for name in ("recipe.json", "summary.json"):
        shutil.copy(ROOT / "results" / "cnn" / name, tmp_path)
    with pytest.raises(
        WorldError, match=r"weights of this run were not kept\. Train it again with `cifar train -m cnn"
    ):
        load_model(tmp_path)
    write_json(tmp_path / "crossval.json", {})
    with pytest.raises(InputError, match="fold-0"):
        load_model(tmp_path)


def test_predicting_keeps_the_evaluation_mode(classifier: Classifier, images: Tensor) -> None:
    assert not classifier.network.training
    classifier.predict(images)
    assert not classifier.network.training


def test_importing_cifar_does_not_import_pytorch() -> None:
    code = "import sys, cifar; cifar.load_model; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"
    assert (Path(sys.modules["cifar"].__file__ or "").parent / "py.typed").exists()
