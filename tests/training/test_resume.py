"""A resumed training: exact from any checkpoint; what differs is refused, or said and recorded."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hub_server import TINY
from safetensors.torch import load_file

from cifar.data.split import Split
from cifar.errors import InputError
from cifar.recipes import Optimiser, Recipe, with_fields
from cifar.runs import read_metrics
from cifar.training import resume
from cifar.training.display import Display
from cifar.training.loop import train
from cifar.training.state import State

PLAIN = Recipe(model="cnn", epochs=2, batch_size=64, optimiser=Optimiser(lr=0.05))  # four steps an epoch


class Killed(BaseException):
    """Stands for the end of the process."""


class Watching(Display):
    """Ends after so many steps, by a stop or like a kill; keeps what is said."""

    def __init__(self, *, stop_after: int = 0, kill_after: int = 0) -> None:
        self.steps, self.stop_after, self.kill_after = 0, stop_after, kill_after
        self.said: list[str] = []

    def should_stop(self) -> bool:
        self.steps += 1
        if self.steps == self.kill_after:
            raise Killed
        return self.steps == self.stop_after

    def say(self, sentence: str) -> None:
        self.said.append(sentence)


def same_weights(first: Path, second: Path) -> bool:
    left, right = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def stopped(few: tuple[Split, Split], folder: Path, recipe: Recipe = PLAIN, *, after: int = 6) -> None:
    folder.mkdir(exist_ok=True)
    train(recipe, *few, folder=folder, display=Watching(stop_after=after), data_sha256="a")


def resumed(few: tuple[Split, Split], folder: Path, recipe: Recipe, **options: str) -> tuple[State, list[str]]:
    watching = Watching()
    state = train(recipe, *few, folder=folder, display=watching, resume=True, **{"data_sha256": "a"} | options)  # type: ignore[arg-type]
    return state, watching.said


@pytest.mark.parametrize("kill_after", [1, 3, 7])
def test_a_killed_training_goes_on_from_a_checkpoint_within_the_epoch(
    kill_after: int, few: tuple[Split, Split], tmp_path: Path
) -> None:
    recipe = with_fields(PLAIN, crop_padding=4, flip=0.5, mixup=0.2, ema_decay=0.9, schedule="cosine")
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    train(recipe, *few, folder=tmp_path / "whole")
    broken = tmp_path / "broken"
    with pytest.raises(Killed):
        train(recipe, *few, folder=broken, display=Watching(kill_after=kill_after + 1), checkpoint_seconds=1e-9)
    state = train(recipe, *few, folder=broken, resume=True)
    assert state.finished
    assert same_weights(tmp_path / "whole", broken)
    for first, second in zip(read_metrics(tmp_path / "whole"), read_metrics(broken), strict=True):
        assert all(first[name] == second[name] for name in first if name not in ("seconds", "images_per_second"))


def test_checkpoints_within_an_epoch_can_be_switched_off(few: tuple[Split, Split], tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(PLAIN, *few, folder=tmp_path, display=Watching(kill_after=4), checkpoint_seconds=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("changes", [{"batch_size": 32}, {"seed": 1}, {"optimiser": "adamw"}, {"split_seed": 2}])
def test_another_recipe_is_refused_by_its_field(
    changes: dict[str, object], few: tuple[Split, Split], tmp_path: Path
) -> None:
    stopped(few, tmp_path)
    (name,) = changes
    with pytest.raises(InputError, match=rf"recipe\.json was changed since the run began: {name} is "):
        resumed(few, tmp_path, with_fields(PLAIN, **changes))


def test_other_data_are_refused(few: tuple[Split, Split], tmp_path: Path) -> None:
    stopped(few, tmp_path)
    with pytest.raises(InputError, match="other data"):
        resumed(few, tmp_path, PLAIN, data_sha256="b")


@pytest.mark.parametrize("schedule, factor", [("constant", 1.0), ("plateau", 0.1), ("cosine", 0.5)])
def test_a_rate_that_is_changed_on_purpose_counts_from_there_on(
    schedule: str, factor: float, few: tuple[Split, Split], tmp_path: Path
) -> None:
    """All groups' rates are as far below their peaks as they were."""
    recipe = with_fields(PLAIN, schedule=schedule, plateau_patience=0, plateau_threshold=1.0, epochs=3)
    stopped(few, tmp_path, recipe, after=10)  # plateau has cut the rate once, after the second epoch
    state, said = resumed(few, tmp_path, with_fields(recipe, lr=0.01))
    schedule_remarks = {
        "constant": [],
        "plateau": ["The plateau schedule goes on where it was."],
        "cosine": [
            "By the cosine schedule of 3 epochs the learning rate goes on at 0.0025; it was "
            f"{state.rows[1]['learning_rate']:.3g} at the end of the last epoch."
        ],
    }
    assert said == ["lr is 0.01 from here on; it was 0.05.", *schedule_remarks[schedule]]
    assert state.changes == [{"field": "lr", "before": 0.05, "after": 0.01, "epoch": 2, "step": 2}]
    rates = [row["learning_rate"] for row in state.rows]
    expected = factor if schedule != "cosine" else rates[2] / 0.01
    assert rates[0] > 0.01
    assert rates[2] == pytest.approx(0.01 * expected)
    again, said = resumed(few, tmp_path, with_fields(recipe, lr=0.01))  # of a finished training: nothing is left
    assert (again.changes, said) == (state.changes, [])


def test_a_changed_rate_trains_as_a_run_that_had_it_then(few: tuple[Split, Split], tmp_path: Path) -> None:
    """With a constant rate: the steps after the change are those of the optimiser with that rate set by hand."""
    stopped(few, tmp_path, after=4)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["epoch"] == 1 or checkpoint["step"] == 4
    for group in checkpoint["optimiser"]["param_groups"]:
        group["lr"] = group["initial_lr"] = 0.01
    checkpoint["origin"]["recipe"]["lr"] = 0.01
    by_hand = tmp_path / "by hand"
    by_hand.mkdir()
    torch.save(checkpoint, by_hand / "last.ckpt")
    for folder in (tmp_path, by_hand):
        resumed(few, folder, with_fields(PLAIN, lr=0.01))
    assert same_weights(tmp_path, by_hand)


def test_a_finished_training_is_extended_exactly(few: tuple[Split, Split], tmp_path: Path) -> None:
    """With a constant rate it equals a training that was that long from the beginning."""
    for name in ("whole", "extended"):
        (tmp_path / name).mkdir()
    train(with_fields(PLAIN, epochs=3), *few, folder=tmp_path / "whole", data_sha256="a")
    train(PLAIN, *few, folder=tmp_path / "extended", data_sha256="a")
    state, said = resumed(few, tmp_path / "extended", with_fields(PLAIN, epochs=3))
    assert (state.epoch, said) == (3, ["epochs is 3 from here on; it was 2."])
    assert same_weights(tmp_path / "whole", tmp_path / "extended")


def test_another_number_of_threads_is_said_and_recorded(
    few: tuple[Split, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(few, tmp_path)
    monkeypatch.setattr(resume.torch, "get_num_threads", lambda: 7)
    state, said = resumed(few, tmp_path, PLAIN)
    assert said == [
        "threads is 7 from here on; it was 1.",
        "So the result will not be that of an uninterrupted run, bit for bit.",
    ]
    assert [change["field"] for change in state.changes] == ["threads"]


@pytest.mark.parametrize("deterministic", [False, True])
def test_what_a_gpu_does_not_promise_is_said(deterministic: bool) -> None:
    computed = {"device": "cuda", "deterministic": deterministic}
    state: Any = SimpleNamespace(origin={"computed": computed}, changes=[], epoch=1, step=3)
    said = resume.resumed_otherwise(state)
    assert said == [] if deterministic else "unless a run has --deterministic" in said[0]


def test_pretrained_weights_are_not_needed_to_resume(
    few: tuple[Split, Split], tmp_path: Path, tiny_weights: bytes
) -> None:
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes(tiny_weights)
    recipe = with_fields(PLAIN, model="previt", model_name=TINY, weights=str(weights), image_size=32, epochs=1)
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    train(recipe, *few, folder=tmp_path / "whole")
    with pytest.raises(Killed):  # before any other checkpoint than the one it begins with
        train(recipe, *few, folder=tmp_path / "broken", display=Watching(kill_after=2))
    weights.unlink()
    train(recipe, *few, folder=tmp_path / "broken", resume=True)
    assert same_weights(tmp_path / "whole", tmp_path / "broken")
