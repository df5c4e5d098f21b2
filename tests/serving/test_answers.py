"""What the demo shows of a run, without a server."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from untrained_runs import make_untrained

from cifar import load_model
from cifar.data.cifar10 import Dataset, load
from cifar.data.split import CLASSES
from cifar.errors import InputError
from cifar.files import write_json
from cifar.runs import SUMMARY
from cifar.serving import answers
from cifar.serving.answers import class_probs, looked_at, overlay, read_shown
from cifar.serving.explain import explain

RESULTS = Path(__file__).parent.parent.parent / "results"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_untrained(tmp_path_factory.mktemp("runs") / "mine", "cnn", "views=mirror")


@pytest.fixture(scope="module")
def image(sample: Dataset) -> Tensor:
    return load(sample, "train").images[3]


def test_the_probabilities_are_the_networks(run: Path, image: Tensor) -> None:
    (shown,) = read_shown([run], device="cpu")
    probs = class_probs(image, shown)
    assert list(probs) == list(CLASSES)
    torch.testing.assert_close(torch.tensor([*probs.values()]), load_model(run, device="cpu").predict(image).probs[0])


def test_the_picture_is_the_image_and_the_heat(run: Path, image: Tensor) -> None:
    (shown,) = read_shown([run], device="cpu")
    picture, words = looked_at(image, shown)
    assert picture is not None
    name = load_model(run, device="cpu").predict(image).names[0]
    assert f"what speaks for {name}." in words
    assert "Grad-CAM" in words
    pixels = np.asarray(picture)
    assert pixels.shape == (320, 660, 4)
    np.testing.assert_array_equal(pixels[5::10, 5:320:10, :3], image.permute(1, 2, 0))
    assert (pixels[:, 320:340, 3] == 0).all()
    label = CLASSES.index(name)  # of the mean of both views
    expected = overlay(image, explain(shown.classifier.network, image, label=label))
    np.testing.assert_array_equal(pixels, np.asarray(expected))


def test_heat_is_from_dark_to_bright(image: Tensor) -> None:
    heat = torch.zeros(32, 32)
    heat[:, 16:] = 1
    pixels = np.asarray(overlay(torch.zeros_like(image), heat).convert("RGB")).astype(int)
    cold, hot = pixels[0, 345], pixels[0, 655]
    np.testing.assert_array_equal(cold, np.rint(0.6 * np.array([68, 1, 84])))  # both ends of viridis
    np.testing.assert_array_equal(hot, np.rint(0.6 * np.array([253, 231, 37])))


def test_a_network_that_cannot_be_explained_says_so(tmp_path: Path, image: Tensor) -> None:
    (shown,) = read_shown([make_untrained(tmp_path / "run", "untrained_runs:flat")], device="cpu")
    picture, words = looked_at(image, shown)
    assert picture is None
    assert "cannot be explained" in words
    assert len(class_probs(image, shown)) == 10


def test_the_card_is_there_and_tells_no_path(run: Path) -> None:
    recorded, untrained = read_shown([RESULTS / "cnn", run], device="cpu")
    accuracy = json.loads((RESULTS / "cnn" / SUMMARY).read_text())["test_accuracy"]
    assert f"{accuracy:.2%}" in recorded.card
    assert recorded.card.startswith("# cnn")
    assert str(RESULTS) not in recorded.card
    assert untrained.card.startswith("There is no card")
    assert (recorded.name, untrained.name) == ("cnn", "mine")


def test_a_run_on_the_sample_is_called_so(tmp_path: Path) -> None:
    run = make_untrained(tmp_path / "run", "cnn")
    assert read_shown([run], device="cpu")[0].warning == ""
    write_json(run / SUMMARY, {"data": "SAMPLE OF CIFAR-10", "finished": False})
    (shown,) = read_shown([run], device="cpu")
    assert shown.warning == "SAMPLE OF CIFAR-10: run HAS SEEN 1,000 IMAGES AND KNOWS NEXT TO NOTHING"
    assert shown.card.startswith("There is no card")


def test_the_same_run_twice_is_refused(run: Path) -> None:
    with pytest.raises(InputError, match="the same"):
        read_shown([run, run], device="cpu")


def test_pixels_are_enlarged_one_by_one() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    large = answers.enlarge(pixels)
    assert isinstance(large, Image.Image)
    np.testing.assert_array_equal(np.asarray(large), pixels.repeat(10, axis=0).repeat(10, axis=1))
