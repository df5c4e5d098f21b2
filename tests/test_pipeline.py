"""A run's states, and what is written when: train, stop, resume, evaluate in every order."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cifar.cli.display import result_line
from cifar.data import cifar10
from cifar.data.cifar10 import Dataset, Split
from cifar.errors import InputError, WorldError
from cifar.models import build_model
from cifar.pipeline import evaluation as evaluations
from cifar.pipeline import run
from cifar.pipeline.evaluation import evaluate_run
from cifar.pipeline.folds import run_folds
from cifar.pipeline.job import Job, Stopped
from cifar.pipeline.run import run_one, train_run
from cifar.recipes import Optimiser, Recipe, recipe_for, to_mapping, with_fields
from cifar.runs import PICTURES, read_json, run_recipe, run_state
from cifar.training.display import Display

pytestmark = pytest.mark.usefixtures("blank_pictures")
PLAIN = Recipe(model="cnn", epochs=2, batch_size=100, optimiser=Optimiser(lr=0.02))


class Stopping(Display):
    """Stops after so many steps; keeps the order of what it is told."""

    def __init__(self, stop_after: int = 0) -> None:
        self.steps, self.stop_after = 0, stop_after
        self.events: list[str] = []

    def should_stop(self) -> bool:
        self.steps += 1
        return self.steps == self.stop_after

    def end_training(self) -> None:
        self.events.append("end of training")

    def result(self, summary: Mapping[str, Any], folder: Path, *, fold: int | None = None) -> None:
        pictures = sorted(path.name for path in folder.glob("*.png"))
        self.events.append(f"result of fold {fold}, {run_state(summary)}, pictures {pictures}")

    def say(self, sentence: str) -> None:
        self.events.append(sentence)


def job_of(folder: Path, recipe: Recipe = PLAIN, *, resume: bool = False) -> Job:
    return Job(
        recipe, folder, device="cpu", resume=resume, command="cifar train", cross_validate=recipe.holdout.num_folds > 0
    )


def test_training_never_opens_the_test_split(sample: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = cifar10.load

    def only_train(dataset: Dataset, part: str) -> Split:
        assert part == "train", "training asked for the test split"
        return real(dataset, part)

    monkeypatch.setattr(run, "load", only_train)
    recipe = with_fields(PLAIN, epochs=1, num_folds=5, fold=3)
    train_run(job_of(tmp_path, recipe), sample, display=Display())
    summary = read_json(tmp_path / "summary.json")
    assert summary["test_readings"] == []
    assert (summary["num_train"], summary["num_validation"]) == (800, 200)
    assert (summary["state"], summary["finished"]) == ("trained", True)


@pytest.mark.usefixtures("drawn")
def test_the_summary_of_a_run(sample: Dataset, tmp_path: Path) -> None:
    recipe = with_fields(PLAIN, seed=3)
    display = Stopping()
    summary = run_one(job_of(tmp_path, recipe), sample, display=display)
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert summary["data"].startswith("SAMPLE")
    assert summary["data_sha256"] == sample.sha256
    assert summary["recipe"] == to_mapping(recipe)
    assert (summary["seed"], summary["epochs"], summary["state"]) == (3, 2, "tested")
    assert summary["parameters"] == sum(p.numel() for p in build_model(recipe_for("cnn")).parameters())
    assert 0 <= summary["validation_accuracy"] <= 1
    assert summary["machine"]["cores"] >= 1
    assert summary["versions"]["torch"]
    assert summary["seconds"] > 0
    assert (summary["sittings"], summary["compiled"], summary["kernels"]) == (1, False, "native")
    assert len(summary["test_readings"]) == 1
    # The result is told before any picture is drawn.
    assert display.events == ["end of training", "result of fold None, tested, pictures []"]
    assert len(list(tmp_path.glob("*.png"))) == 6


def test_the_summary_counts_the_parts_of_a_resumed_run(sample: Dataset, tmp_path: Path) -> None:
    for stop_after, resume in ((1, False), (1, True), (0, True)):
        job = job_of(tmp_path, resume=resume)
        if stop_after:
            with pytest.raises(Stopped):
                run_one(job, sample, display=Stopping(stop_after))
            assert read_json(tmp_path / "summary.json")["state"] == "unfinished"
        else:
            run_one(job, sample, display=Display())
    assert read_json(tmp_path / "summary.json")["sittings"] == 3


@pytest.fixture(scope="module")
def three_epochs(sample: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs, to be read only: what others must equal."""
    folder = tmp_path_factory.mktemp("whole") / "whole"
    run_one(job_of(folder, with_fields(PLAIN, epochs=3)), sample, display=Display())
    return folder


@pytest.fixture(scope="module")
def two_folds(sample: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of a cross-validation on two folds of one epoch each."""
    recipe = with_fields(PLAIN, epochs=1, num_folds=2)
    return run_folds(job_of(tmp_path_factory.mktemp("folds") / "whole", recipe), sample, display=Display())


def evaluate(folder: Path, sample: Dataset, split: str, **options: Any) -> dict[str, Any]:
    return evaluate_run(folder, sample, split=split, purpose="a test", device="cpu", display=Display(), **options)


@pytest.mark.parametrize("split, views", [("test", ""), ("test", "mirror"), ("validation", "")])
def test_resume_after_evaluate_continues_training(
    split: str, views: str, sample: Dataset, three_epochs: Path, tmp_path: Path
) -> None:
    """An evaluation of a stopped run is no result, and does not make it finished."""
    recipe = with_fields(PLAIN, epochs=3)
    with pytest.raises(Stopped):
        run_one(job_of(tmp_path / "broken", recipe), sample, display=Stopping(12))
    evaluate(tmp_path / "broken", sample, split, views=views)
    summary = read_json(tmp_path / "broken" / "summary.json")
    assert (summary["state"], summary["test_accuracy"]) == ("unfinished", None)
    assert len(summary["test_readings"]) == (split == "test")
    display = Stopping()
    after = run_one(job_of(tmp_path / "broken", recipe, resume=True), sample, display=display)
    assert (after["state"], after["epochs"]) == ("tested", 3)
    assert len(after["test_readings"]) == 1 + (split == "test")
    first, second = (load_file(run / "model.safetensors") for run in (three_epochs, tmp_path / "broken"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert after["test_accuracy"] == read_json(three_epochs / "summary.json")["test_accuracy"]


def test_a_trained_run_is_only_evaluated_and_a_tested_one_left_alone(sample: Dataset, tmp_path: Path) -> None:
    """As after Ctrl-C in the test evaluation."""
    train_run(job_of(tmp_path), sample, display=Display())
    weights = (tmp_path / "model.safetensors").read_bytes()
    display = Stopping()
    summary = run_one(job_of(tmp_path, resume=True), sample, display=display)
    assert (summary["state"], display.steps) == ("tested", 0)
    assert (tmp_path / "model.safetensors").read_bytes() == weights
    assert (tmp_path / "curves.png").exists()
    again = Stopping()
    assert run_one(job_of(tmp_path, resume=True), sample, display=again) == summary
    assert again.events == [f"{tmp_path} is finished already; `--resume {tmp_path} -e EPOCHS` trains it for longer."]


@pytest.mark.usefixtures("drawn")
def test_pictures_that_an_interruption_left_out_are_drawn(sample: Dataset, tmp_path: Path) -> None:
    """The same pictures, without another test evaluation."""
    summary = run_one(job_of(tmp_path), sample, display=Display())
    drawn = [name for name in PICTURES if name != "corruptions.png"]
    pictures = {name: (tmp_path / name).read_bytes() for name in drawn}
    for name in pictures:
        (tmp_path / name).unlink()
    display = Stopping()
    assert run_one(job_of(tmp_path, resume=True), sample, display=display) == summary
    assert {name: (tmp_path / name).read_bytes() for name in pictures} == pictures
    assert display.events == []


@pytest.mark.usefixtures("drawn")
def test_a_run_that_holds_nothing_out_has_no_picture_of_it(sample: Dataset, tmp_path: Path) -> None:
    recipe = with_fields(PLAIN, validation_fraction=0.0, epochs=1)
    run_one(job_of(tmp_path, recipe), sample, display=Display())
    assert (tmp_path / "train_batch.png").exists()
    assert not (tmp_path / "val_batch.png").exists()
    again = Stopping()
    run_one(job_of(tmp_path, recipe, resume=True), sample, display=again)
    assert again.events == [f"{tmp_path} is finished already; `--resume {tmp_path} -e EPOCHS` trains it for longer."]


def test_an_evaluation_that_was_interrupted_is_counted_and_made_again(
    sample: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_one(job_of(tmp_path / "whole"), sample, display=Display())

    def interrupt(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluations, "write_evaluation", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_one(job_of(tmp_path / "broken"), sample, display=Display())
    summary = run_one(job_of(tmp_path / "broken", resume=True), sample, display=Display())
    assert len(summary["test_readings"]) == 2
    whole, broken = (read_json(tmp_path / name / "evaluation.json") for name in ("whole", "broken"))
    assert {key: whole[key] for key in whole if key not in ("run", "prediction_seconds")} == {
        key: broken[key] for key in broken if key not in ("run", "prediction_seconds")
    }


def test_a_run_is_extended_with_more_epochs(sample: Dataset, three_epochs: Path, tmp_path: Path) -> None:
    """With a constant rate it equals a run that was that long from the beginning, and is tested again."""
    run_one(job_of(tmp_path / "extended"), sample, display=Display())
    with pytest.raises(InputError, match="trained for 2 epochs already: give more with -e"):
        run_one(job_of(tmp_path / "extended", with_fields(PLAIN, lr=0.5), resume=True), sample, display=Display())
    longer = with_fields(PLAIN, epochs=3)
    summary = run_one(job_of(tmp_path / "extended", longer, resume=True), sample, display=Display())
    assert (summary["state"], summary["epochs"], len(summary["test_readings"])) == ("tested", 3, 2)
    assert [(change["field"], change["epoch"]) for change in summary["changes"]] == [("epochs", 2)]
    assert run_recipe(tmp_path / "extended") == longer
    assert summary["test_accuracy"] == read_json(three_epochs / "summary.json")["test_accuracy"]
    first, second = (load_file(run / "model.safetensors") for run in (three_epochs, tmp_path / "extended"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_that_is_being_trained_is_neither_resumed_nor_evaluated(sample: Dataset, tmp_path: Path) -> None:
    class Meanwhile(Display):
        def end_epoch(self, row: Mapping[str, float], *, is_best: bool) -> None:  # noqa: ARG002
            with pytest.raises(WorldError, match="another process"):
                run_one(job_of(tmp_path, resume=True), sample, display=Display())
            with pytest.raises(WorldError, match="another process"):
                evaluate(tmp_path, sample, "validation")

    assert run_one(job_of(tmp_path), sample, display=Meanwhile())["state"] == "tested"


def test_a_trained_run_is_tested_by_an_evaluation_with_its_own_tta(sample: Dataset, tmp_path: Path) -> None:
    train_run(job_of(tmp_path, with_fields(PLAIN, views="shift")), sample, display=Display())
    evaluate(tmp_path, sample, "test", views="mirror")
    assert read_json(tmp_path / "summary.json")["state"] == "trained"
    evaluation = evaluate(tmp_path, sample, "test")
    summary = read_json(tmp_path / "summary.json")
    assert (summary["state"], summary["test_accuracy"]) == ("tested", evaluation["accuracy"])
    # Validation accuracy stands beside it with the same TTA.
    assert summary["validation_accuracy_tta"] == evaluate(tmp_path, sample, "validation")["accuracy"]
    assert "TTA: shift" in result_line(summary, tmp_path)


@pytest.mark.parametrize("split, views", [("validation", ""), ("test", "mirror")])
def test_a_fold_that_was_evaluated_otherwise_does_not_lose_the_cross_validation(
    split: str, views: str, sample: Dataset, two_folds: dict[str, Any], tmp_path: Path
) -> None:
    recipe = with_fields(PLAIN, epochs=1, num_folds=2)
    with pytest.raises(Stopped):
        run_folds(job_of(tmp_path / "broken", recipe), sample, display=Stopping(6))  # a fold has five steps
    evaluate(tmp_path / "broken" / "fold-0", sample, split, views=views)
    result = run_folds(job_of(tmp_path / "broken", recipe, resume=True), sample, display=Display())
    for key in ("validation", "test", "test_of_averaged_probabilities"):
        assert result[key] == two_folds[key]
    # Both evaluations are there, and nothing was evaluated again.
    fold = tmp_path / "broken" / "fold-0"
    names = ("evaluation.json", f"evaluation-{split}-{views or 'none'}.json")
    assert [read_json(fold / name)["split"] for name in names] == ["test", split]
    assert len(read_json(fold / "summary.json")["test_readings"]) == 1 + (split == "test")


def test_folds_of_two_cross_validations_are_different_runs_on_wandb(
    sample: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids: list[str] = []
    monkeypatch.setattr(run, "open_loggers", lambda *_, wandb_id, **__: ids.append(wandb_id) or [])
    recipe = with_fields(PLAIN, epochs=1, num_folds=2)
    for name in ("first", "second"):
        run_folds(Job(recipe, tmp_path / name, device="cpu", wandb=True), sample, display=Display())
    assert len(set(ids)) == 4
    assert ids[0] == read_json(tmp_path / "first" / "fold-0" / "summary.json")["wandb_id"]


def test_predictions_are_those_of_the_result(sample: Dataset, tmp_path: Path) -> None:
    summary = run_one(job_of(tmp_path), sample, display=Display())
    with np.load(tmp_path / "predictions.npz") as predictions:
        assert str(predictions["split"]) == "test"
        assert (predictions["probs"].argmax(1) == predictions["labels"]).mean() == summary["test_accuracy"]
