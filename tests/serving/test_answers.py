"""What the demo shows of a run, tested without a server."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made_runs import summary_of
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
from cifar.serving.answers import class_probs, explanation, load_runs, overlay
from cifar.serving.explain import explain

RESULTS = Path(__file__).parent.parent.parent / "results"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_untrained(tmp_path_factory.mktemp("runs") / "mine", "cnn", "views=mirror")


@pytest.fixture(scope="module")
def image(sample: Dataset) -> Tensor:
    return load(sample, "train").images[3]


def test_class_probs_are_the_predictions_of_the_network(run: Path, image: Tensor) -> None:
    (demo_run,) = load_runs([run], device="cpu")
    probs = class_probs(image, demo_run)
    assert list(probs) == list(CLASSES)
    torch.testing.assert_close(torch.tensor([*probs.values()]), load_model(run, device="cpu").predict(image).probs[0])


def test_the_picture_shows_the_image_and_the_heat_map(run: Path, image: Tensor) -> None:
    (demo_run,) = load_runs([run], device="cpu")
    picture, words = explanation(image, demo_run)
    assert picture is not None
    name = load_model(run, device="cpu").predict(image).names[0]
    assert f"evidence for {name}." in words
    assert "Grad-CAM" in words
    pixels = np.asarray(picture)
    assert pixels.shape == (320, 660, 4)
    np.testing.assert_array_equal(pixels[5::10, 5:320:10, :3], image.permute(1, 2, 0))
    assert (pixels[:, 320:340, 3] == 0).all()
    label = CLASSES.index(name)  # by the mean of both views
    expected = overlay(image, explain(demo_run.classifier.network, image, label=label))
    np.testing.assert_array_equal(pixels, np.asarray(expected))


def test_the_heat_map_goes_from_dark_to_bright(image: Tensor) -> None:
    heat = torch.zeros(32, 32)
    heat[:, 16:] = 1
    pixels = np.asarray(overlay(torch.zeros_like(image), heat).convert("RGB")).astype(int)
    cold, hot = pixels[0, 345], pixels[0, 655]
    np.testing.assert_array_equal(cold, np.rint(0.6 * np.array([68, 1, 84])))  # both ends of viridis
    np.testing.assert_array_equal(hot, np.rint(0.6 * np.array([253, 231, 37])))


def test_a_network_that_cannot_be_explained_has_words_and_no_picture(tmp_path: Path, image: Tensor) -> None:
    (demo_run,) = load_runs([make_untrained(tmp_path / "run", "untrained_runs:flat")], device="cpu", trust_code=True)
    picture, words = explanation(image, demo_run)
    assert picture is None
    assert "cannot be explained" in words
    assert len(class_probs(image, demo_run)) == 10


def test_the_card_holds_the_result_and_no_path(run: Path) -> None:
    recorded, untrained = load_runs([RESULTS / "cnn", run], device="cpu")
    accuracy = json.loads((RESULTS / "cnn" / SUMMARY).read_text())["test_accuracy"]
    assert f"{accuracy:.2%}" in recorded.card
    assert recorded.card.startswith("# cnn")
    assert str(RESULTS) not in recorded.card
    assert untrained.card.startswith("There is no card")
    assert (recorded.name, untrained.name) == ("cnn", "mine")


def test_a_run_on_the_sample_has_a_warning(tmp_path: Path) -> None:
    run = make_untrained(tmp_path / "run", "cnn")
    assert load_runs([run], device="cpu")[0].warning == ""
    write_json(run / SUMMARY, summary_of(state="unfinished", finished=False))
    (demo_run,) = load_runs([run], device="cpu")
    assert demo_run.warning == "run: SAMPLE OF CIFAR-10: TRAINED ON 1,000 IMAGES, KNOWS NEXT TO NOTHING"
    assert demo_run.card.startswith("There is no card")


def test_the_same_run_twice_is_refused(run: Path) -> None:
    with pytest.raises(InputError, match="given twice"):
        load_runs([run, run], device="cpu")


def test_enlarging_repeats_every_pixel() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    large = answers.enlarge(pixels)
    assert isinstance(large, Image.Image)
    np.testing.assert_array_equal(np.asarray(large), pixels.repeat(10, axis=0).repeat(10, axis=1))
