"""`cifar explain` on the command line."""

from pathlib import Path

import numpy as np
import pytest
from made_runs import summary_of
from matplotlib import colormaps
from PIL import Image
from untrained_runs import make_untrained

from cifar import load_model
from cifar.cli import app, run_app
from cifar.data.cifar10 import Dataset, load
from cifar.files import write_json
from cifar.serving.explain import explain
from cifar.serving.images import read_image

Captured = pytest.CaptureFixture[str]


def cifar_explain(*arguments: object) -> int:
    return run_app(app, ["explain", *map(str, arguments), "--device", "cpu"], program="cifar")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_untrained(tmp_path_factory.mktemp("runs") / "small", "cnn")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, sample: Dataset) -> Path:
    path = tmp_path_factory.mktemp("files") / "a $image$.png"
    Image.fromarray(load(sample, "train").images[3].permute(1, 2, 0).numpy()).resize((90, 60)).save(path)
    return path


def test_the_picture_holds_the_heat_map_in_its_colours(run: Path, file: Path, tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "out.png"
    assert cifar_explain(run, file, "-o", path) == 0
    output = capsys.readouterr()
    classifier = load_model(run, device="cpu")
    (first, probability), _ = classifier.predict(file).top(2)[0]
    assert output.out.startswith(f"{first} {probability:.1%}, then ")
    assert output.out.rstrip().endswith(str(path))
    assert output.err == ""
    with Image.open(path) as opened:
        picture = np.asarray(opened.convert("RGB")).astype(int)
    assert picture.shape[1] == 1710
    heat = explain(classifier.network, read_image(file))
    brightest = (255 * np.array(colormaps["viridis"](float(heat.max()))[:3])).round()
    map_alone = picture[:, 2 * 1710 // 3 : 1540]  # without its scale
    is_brightest = np.abs(map_alone - brightest).max(axis=2) <= 1
    assert is_brightest.sum() > 50  # at least one cell


@pytest.mark.parametrize("flags", [[], ["--class", "ship"]])
def test_class_is_explained_and_the_picture_has_a_default_name(
    run: Path, file: Path, flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cifar_explain(run, file, *flags) == 0
    assert (tmp_path / "a $image$-explained.png").stat().st_size > 10_000
    assert ("ship" in capsys.readouterr().out.partition(";")[2]) == bool(flags)


def test_a_network_trained_on_the_sample_is_noted(run: Path, file: Path, tmp_path: Path, capsys: Captured) -> None:
    other = make_untrained(tmp_path / "sampled", "vit-tiny")
    write_json(other / "summary.json", summary_of())
    assert cifar_explain(other, file, "-o", tmp_path / "out.png") == 0
    assert "SAMPLE OF CIFAR-10" in capsys.readouterr().err
    assert cifar_explain(run, file, "-o", tmp_path / "out.png") == 0
    assert "SAMPLE" not in capsys.readouterr().err


def test_bad_input_is_one_sentence_and_leaves_no_file(run: Path, file: Path, tmp_path: Path, capsys: Captured) -> None:
    text = tmp_path / "text.png"
    text.write_text("no image")
    transformer = make_untrained(tmp_path / "vit", "vit-tiny")
    for code, words, arguments in (
        (2, "no class 'plane': choose from airplane", (run, file, "--class", "plane")),
        (2, "is a folder", (run, file, "-o", tmp_path)),
        (2, "There is no file", (run, tmp_path / "absent.png")),
        (1, "not an image", (run, text)),
        (2, "not a run folder", (tmp_path, file)),
        (2, "same for every class", (transformer, file, "--class", "cat")),
        (1, "No such file", (run, file, "-o", tmp_path / "absent" / "out.png")),
    ):
        assert cifar_explain(*arguments) == code
        output = capsys.readouterr()
        assert words in output.err
        assert output.err.count("\n") == 1
        assert output.out == ""
    assert not list(tmp_path.glob("**/*.part"))
