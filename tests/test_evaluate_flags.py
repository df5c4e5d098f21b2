"""`cifar evaluate` as a person meets it: every flag both ways, on the sample."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cifar import Run, load_model
from cifar.audit import people as people_of
from cifar.audit.people import References
from cifar.cli import app, run_app
from cifar.data.cifar10 import Dataset, load
from cifar.data.split import CLASSES
from cifar.pipeline import evaluation as evaluations
from cifar.pipeline.elsewhere import training_images_among

pytestmark = pytest.mark.usefixtures("blank_pictures")


def cifar(*arguments: object) -> int:
    return run_app(app, [str(argument) for argument in arguments], program="cifar")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "quick"
    flags = ["-m", "cnn", "-e", "1", "-b", "100", "-l", "1e-3", "-d", "cpu", "--data", "sample"]
    assert cifar("train", *flags, "-s", folder) == 0
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "quick")


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def test_test_gets_a_temperature_from_validation_and_validation_none(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cifar("evaluate", run, "-d", "cpu") == 0
    evaluation, out = read(run / "evaluation.json"), capsys.readouterr().out
    scaling = evaluation["temperature_scaling"]
    assert (scaling["fitted_on"], scaling["num_fitted"]) == ("validation", 100)
    assert scaling["before"]["loss"] == evaluation["loss"]
    assert f"temperature {scaling['temperature']:.3f}" in out
    assert "calibration error" in out
    assert "Brier score" in out
    assert "reliability.png, mistakes.png" in out
    assert cifar("evaluate", run, "-d", "cpu", "--split", "validation") == 0
    assert read(run / "evaluation-validation-none.json")["temperature_scaling"] is None
    assert "at temperature" not in capsys.readouterr().out


def test_a_run_without_validation_images_has_no_temperature(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["-m", "cnn", "-e", "1", "-b", "100", "--set", "validation_fraction=0", "--set", "schedule=constant"]
    assert cifar("train", *flags, "-d", "cpu", "--data", "sample", "-s", tmp_path / "all") == 0
    assert read(tmp_path / "all" / "evaluation.json")["temperature_scaling"] is None
    assert cifar("evaluate", tmp_path / "all", "--split", "validation", "-d", "cpu") == 2
    assert "held no validation images out" in capsys.readouterr().err


@pytest.mark.parametrize("views, passes", [("", 1), ("none", 1), ("mirror", 2), ("shift", 6)])
def test_views_are_named_with_their_cost(
    views: str, passes: int, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read(run / "summary.json")
    assert cifar("evaluate", run, "-d", "cpu", *(["--tta", views] if views else [])) == 0
    name = f"evaluation-test-{views}.json" if passes > 1 else "evaluation.json"
    evaluation, summary, out = read(run / name), read(run / "summary.json"), capsys.readouterr().out
    assert name in out
    assert (evaluation["views"], evaluation["passes_an_image"]) == (views or "none", passes)
    assert evaluation["prediction_seconds"] > 0
    assert f"TTA: {views or 'none'}, {passes} forward pass" in out
    reading = summary["test_readings"][-1]["purpose"]
    assert reading == ("cifar evaluate" + f" --tta {views}" * bool(views))
    assert len(summary["test_readings"]) == len(before["test_readings"]) + 1
    # The result is the recipe's: other views do not replace it, and say so.
    assert summary["test_accuracy"] == before["test_accuracy"]
    assert ("summary.json keeps its result" in out) == (passes > 1)


@pytest.mark.parametrize("flags, words", [
    (["--tta", "flip"], "none, mirror, shift"),
    (["--references"], "not the sample"),
    (["--references", "--split", "validation"], "not the validation images"),
    (["--corruptions", "--split", "validation"], "--split test"),
])  # fmt: skip
def test_what_cannot_be_asked_is_one_sentence_and_no_reading(
    flags: list[str], words: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "summary.json").read_text()
    assert cifar("evaluate", run, "-d", "cpu", *flags) == 2
    assert words in capsys.readouterr().err.strip().splitlines()[-1]
    assert (run / "summary.json").read_text() == before


@pytest.mark.parametrize("as_json", [True, False])
def test_corruptions(
    as_json: bool, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load = evaluations.load
    few = slice(40)  # of the test images, since each is corrupted 75 times
    monkeypatch.setattr(evaluations, "load", lambda data, part: load(data, part).select(few if part == "test" else ...))
    assert cifar("evaluate", run, "-d", "cpu", "--corruptions", *["--json"] * as_json) == 0
    corruptions, out = read(run / "corruptions.json"), capsys.readouterr().out
    evaluation = read(run / "evaluation.json")
    assert "corruptions" not in evaluation
    assert corruptions["clean_accuracy"] == evaluation["accuracy"]
    assert corruptions["data"].startswith("SAMPLE")
    assert corruptions["num_images"] == 40
    assert (run / "corruptions.png").is_file()
    assert read(run / "summary.json")["test_readings"][-1]["purpose"] == "cifar evaluate --corruptions"
    if as_json:
        assert json.loads(out) == evaluation | {"corruptions": corruptions}
    else:
        assert "regenerated" in out
        assert f"mean accuracy {corruptions['mean_accuracy']:.2%}" in out
        assert len([line for line in out.splitlines() if line.startswith(("gaussian noise ", "fog ", "mean  "))]) == 3
        assert max(map(len, out.splitlines())) < 400


@pytest.mark.parametrize("as_json", [True, False])
def test_references(
    as_json: bool, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    people = torch.rand(200, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    people /= people.sum(dim=1, keepdim=True)
    known = References(people, torch.tensor([1, 2]), torch.tensor([2]), torch.tensor([7]), torch.arange(10))
    monkeypatch.setattr(people_of, "open_references", lambda *_, **__: known)  # those that are published are of 10,000
    assert cifar("evaluate", run, "-d", "cpu", "--references", *["--json"] * as_json) == 0
    references, out = read(run / "references.json"), capsys.readouterr().out
    assert references["label_errors"]["without_unconfirmed"]["num_images"] == 198
    assert references["near_duplicates"]["without"]["num_images"] == 190
    assert references["views"] == "none"
    assert read(run / "summary.json")["test_readings"][-1]["purpose"] == "cifar evaluate --references"
    if as_json:
        assert json.loads(out) == read(run / "evaluation.json") | {"references": references}
    else:
        for words in ("human labels (CIFAR-10H)", "label errors", "near-duplicates", "references.json"):
            assert words in out


def test_without_flags_nothing_more_is_asked(run: Path) -> None:
    assert cifar("evaluate", run, "-d", "cpu", "--json") == 0
    assert not {"references.json", "corruptions.json", "corruptions.png"} & {path.name for path in run.iterdir()}


def test_references_that_cannot_be_had_are_no_reading(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cifar.audit import references
    from cifar.data.cifar10 import Dataset

    monkeypatch.setattr(references, "SERVER", "http://127.0.0.1:9")
    monkeypatch.setattr(Dataset, "is_sample", property(lambda _: False))
    before = (run / "summary.json").read_text()
    assert cifar("evaluate", run, "-d", "cpu", "--references", "--data", "sample") == 1
    assert "place the file" in capsys.readouterr().err
    assert (run / "summary.json").read_text() == before


def test_an_overwritten_run_keeps_nothing_of_the_former_evaluation(run: Path) -> None:
    from cifar.runs import new_run

    for name in ("references.json", "corruptions.json", "corruptions.png"):
        (run / name).write_text("{}")
    with new_run(run, overwrite=True) as create:
        create({"recipe.json": "{}", "summary.json": "{}"})
    assert sorted(path.name for path in run.iterdir()) == ["checksums.json", "recipe.json", "summary.json"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, sample: Dataset) -> Path:
    """The 20 first test images of the sample, in folders of their classes, as PNG files, half of them enlarged."""
    folder, part = tmp_path_factory.mktemp("photos"), load(sample, "test")
    for number, (image, label) in enumerate(zip(part.images[:20], part.labels[:20].tolist(), strict=True)):
        (folder / CLASSES[label]).mkdir(exist_ok=True)
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        if number % 2:
            picture = picture.resize((64, 96))
        picture.save(folder / CLASSES[label] / f"{number}.png")
    return folder


def test_own_images_are_scored_by_their_folders(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `cifar predict` finds their classes; written where -o says, and not into the run."""
    before = sorted(path.name for path in run.iterdir())
    assert cifar("evaluate", run, "--data", photos, "-d", "cpu", "-o", tmp_path / "out") == 0
    out = capsys.readouterr().out
    evaluation = read(tmp_path / "out" / "evaluation.json")
    names = sorted(photos.rglob("*.png"))
    predictions = load_model(run, device="cpu").predict(names)
    hits = sum(name == path.parent.name for name, path in zip(predictions.names, names, strict=True))
    assert (evaluation["num_images"], evaluation["accuracy"]) == (20, hits / 20)
    assert "own images: accuracy" in out
    with (tmp_path / "out" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["predicted"] for row in rows] == predictions.names
    assert [row["class"] for row in rows] == [path.parent.name for path in names]
    scaling = evaluation["temperature_scaling"]
    assert scaling["temperature"] == read(run / "evaluation.json")["temperature_scaling"]["temperature"]
    probs = predictions.probs.gather(1, torch.tensor([CLASSES.index(path.parent.name) for path in names])[:, None])
    assert scaling["after"]["loss"] == pytest.approx(-probs.log().mean().item(), rel=1e-4)
    assert sorted(path.name for path in run.iterdir()) == before
    assert len(read(run / "summary.json")["test_readings"]) == 1
    assert Run(run).evaluate(data=photos, device="cpu", quiet=True)["accuracy"] == hits / 20


def test_what_is_no_image_or_no_class_is_said_and_left_out(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = shutil.copytree(photos, tmp_path / "mine")
    (mine / "zebra").mkdir()
    broken = next(path for path in mine.iterdir() if path.name != "zebra") / "broken.png"
    broken.write_bytes(b"nothing")
    assert cifar("evaluate", run, "--data", mine, "-d", "cpu", "--json") == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["num_images"] == 20
    assert f"{broken} is not an image" in captured.err
    assert f"{mine / 'zebra'} is left out: its name is no class" in captured.err
    shutil.rmtree(mine)
    (mine / "cat").mkdir(parents=True)
    assert cifar("evaluate", run, "--data", mine, "-d", "cpu") == 2
    assert "holds no images that can be read" in capsys.readouterr().err


def test_training_images_among_own_ones_are_counted(sample: Dataset) -> None:
    assert training_images_among(load(sample, "train").select(torch.arange(7))) == 7
    assert training_images_among(load(sample, "test").select(torch.arange(7))) == 0


@pytest.mark.parametrize("flags, words", [
    ([], "Name a run's folder, or weights of others"),
    (["{run}", "--weights", "x.pth"], "Name a run's folder, or weights of others"),
    (["{run}", "-m", "resnet20"], "belong to --weights"),
    (["{run}", "-o", "out"], "-o is of --weights and of own images"),
    (["--weights", "x.pth"], "Name the network of x.pth"),
    (["--weights", "timm:resnet18", "-m", "resnet18"], "names its network: leave -m out"),
    (["--weights", "x.pth", "-m", "resnet20", "--normalise", "1,2", "1,1,1"], "give three numbers"),
    (["--weights", "x.pth", "-m", "resnet20", "--references"], "leave them out"),
    (["{run}", "--data", "{photos}", "--split", "validation"], "leave them out"),
    (["{run}", "--data", "{photos}", "-o", "{run}"], "holds a run: name another folder"),
])  # fmt: skip
def test_flags_that_do_not_go_together_are_refused(
    flags: list[str], words: str, run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [flag.format(run=run, photos=photos) for flag in flags]
    assert cifar("evaluate", *given, "-d", "cpu") == 2
    assert words in capsys.readouterr().err
