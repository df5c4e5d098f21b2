"""cifar.sweep.work: whatever stops, kills or repeats a worker, runs are those of trainings by themselves."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")

from optuna.trial import Trial

from cifar.cli import app, run_app
from cifar.cli import study as screens
from cifar.data.cifar10 import Dataset
from cifar.errors import Remark, WorldError
from cifar.pipeline.job import Job, Stopped
from cifar.recipes import from_mapping
from cifar.reporting.records import read_records
from cifar.runs import expand_studies, held_queue, read_json, read_predictions, read_study
from cifar.sweep import work as worker
from cifar.sweep.queue import Queue, end, open_queue, taken_trial
from cifar.sweep.show import describe_study
from cifar.sweep.work import Reports, train_next
from cifar.training.display import Display

pytestmark = pytest.mark.usefixtures("blank_pictures")
SHORT = ("-m", "cnn", "-l", "0.003", "--data", "sample", "--set", "validation_fraction=0.8")

TWO_WORKERS = """
import os, sys
from cifar.cli import app, run_app
from cifar.pipeline import run, start
from cifar.reporting import pictures
from cifar.sweep import show, work
pictures.training_pictures = lambda *_, **__: {"curves.png": b""}
pictures.evaluation_pictures = lambda *_, **__: dict.fromkeys(("confusion.png", "reliability.png", "mistakes.png"), b"")
run.batch_pictures = lambda *_, **__: dict.fromkeys(("train_batch.png", "val_batch.png"), b"")
workers = [os.fork() or os._exit(run_app(app, ["sweep", "work", "study"], program="cifar")) for _ in range(2)]
print(*workers, flush=True)
sys.exit(max(os.waitpid(worker, 0)[1] for worker in workers))
"""


@pytest.fixture(autouse=True)
def in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def cifar(*words: str) -> int:
    return run_app(app, words, program="cifar")


def shown(folder: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What `cifar sweep show --json` prints."""
    capsys.readouterr()
    assert cifar("sweep", "show", folder, "--json") == 0
    return json.loads(capsys.readouterr().out)


def assert_same(run: Path, alone: Path) -> None:
    """Weights, predictions and figures of two runs are equal, bit for bit."""
    assert (run / "model.safetensors").read_bytes() == (alone / "model.safetensors").read_bytes()
    assert read_predictions(run)[0].tobytes() == read_predictions(alone)[0].tobytes()
    for name in ("test_accuracy", "validation_accuracy", "best_epoch", "epochs", "seed"):
        assert read_json(run / "summary.json")[name] == read_json(alone / "summary.json")[name], name


class Stopping(Display):
    """Stops after some steps in all, as a person would, or where a search prunes the trial."""

    def __init__(self, reports: Reports, *, steps: int) -> None:
        self.reports, self.steps = reports, steps

    def __enter__(self) -> "Stopping":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def end_epoch(self, row: Any, *, is_best: bool) -> None:  # noqa: ARG002
        self.reports.epoch(row)

    def should_stop(self) -> bool:
        self.steps -= 1
        return self.reports.pruned or self.steps == 0


class Killed(BaseException):
    """Stands for the end of a process."""


def work(folder: Path, dataset: Dataset, *, steps: int = 0) -> int:
    """Train the trials of a study; stop after some steps of each, and go on, as often as it takes. Gives how often."""
    record = read_study(folder)
    job, stops = Job(from_mapping(record["recipe"], origin="study"), folder), 0
    while True:
        queue = open_queue(folder, record, url="", say=print)  # as a new worker does
        try:
            result = train_next(
                queue, job, dataset, display_of=lambda reports: Stopping(reports, steps=steps),
            )  # fmt: skip
        except (Stopped, Killed):
            stops += 1
            continue
        if result is None:
            return stops


def test_seeds_are_trainings_by_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    assert cifar("train", *SHORT, "-e", "2", "--seeds", "2", "-s", "study") == 0
    assert "test: mean of 2 seeds" in capsys.readouterr().out
    study = shown("study", capsys)
    runs = [Path("study", row["run"]) for row in study["rows"]]
    for seed, run in enumerate(runs):
        assert cifar("train", *SHORT, "-e", "2", "--seed", str(seed), "-s", f"alone-{seed}") == 0
        assert_same(run, Path(f"alone-{seed}"))
        assert len(read_json(run / "summary.json")["test_readings"]) == 1
        assert run.name.startswith(f"seed-{seed}-")
    assert [row["state"] for row in study["rows"]] == ["done", "done"]
    accuracies = [read_json(run / "summary.json")["test_accuracy"] for run in runs]
    assert study["result"]["test"]["accuracies"] == accuracies
    capsys.readouterr()
    assert cifar("compare", "study", "--json") == 0
    compared = json.loads(capsys.readouterr().out)["recipes"]
    assert [recipe["seeds"] for recipe in compared] == [[0, 1]]
    assert compared[0]["mean"] == pytest.approx(study["result"]["test"]["mean"])
    assert compared[0]["interval"] == pytest.approx(study["result"]["test"]["interval"])
    assert [record.name for record in read_records([Path("study")])] == [f"study/{run.name}" for run in runs]

    # What is done is not done again, even where the queue is lost.
    def written() -> dict[Path, int]:
        files = (path for run in runs for path in run.iterdir() if path.name != "checksums.json")  # settled when held
        return {path: path.stat().st_mtime_ns for path in files}

    before = written()
    Path("study/journal.log").unlink()
    assert cifar("sweep", "work", "study") == 0
    assert written() == before
    assert shown("study", capsys)["rows"] == study["rows"]
    shutil.rmtree(runs[1])
    with pytest.warns(Remark, match="study: 1 of 2 runs are tested, and the others are left out"):
        assert expand_studies([Path("study"), Path("alone-0")]) == [runs[0], Path("alone-0")]


def test_folds_are_those_of_a_cross_validation(capsys: pytest.CaptureFixture[str]) -> None:
    short = [word for word in SHORT if word not in ("--set", "validation_fraction=0.8")]
    assert cifar("sweep", "new", "study", *short, "-e", "1", "--folds", "2") == 0
    assert cifar("sweep", "work", "study") == 0
    assert cifar("train", *short, "-e", "1", "--folds", "2", "-s", "alone") == 0
    study, crossval = shown("study", capsys), read_json(Path("alone/crossval.json"))
    for fold, row in enumerate(study["rows"]):
        assert_same(Path("study", row["run"]), Path(f"alone/fold-{fold}"))
    for split in ("validation", "test"):
        assert study["result"][split]["accuracies"] == crossval[split]["folds"]
        assert study["result"][split]["interval"] == crossval[split]["interval"]


def test_a_search_that_is_stopped_again_and_again_ends_as_an_unbroken_one(
    sample: Dataset, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = (*SHORT, "-e", "3", "--seed", "3", "--trials", "6")  # one trial would be pruned after its last epoch
    flags += ("--search", "lr=0.0005..0.5:log", "--search", "batch_size=50,100")
    for name in ("unbroken", "stopped"):
        assert cifar("sweep", "new", name, *flags) == 0
    assert cifar("sweep", "work", "unbroken") == 0
    ended: set[int] = set()

    def end_the_second_time(queue: Queue, trial: Trial, **how: Any) -> None:
        if trial.number not in ended:
            ended.add(trial.number)
            raise Killed
        end(queue, trial, **how)

    monkeypatch.setattr(worker, "end", end_the_second_time)
    assert work(tmp_path / "stopped", sample, steps=5) >= 4 + 6
    unbroken, stopped = shown("unbroken", capsys), shown("stopped", capsys)
    drop = {"seconds", "seconds_left"}
    assert [{name: row[name] for name in row.keys() - drop} for row in stopped["rows"]] == [
        {name: row[name] for name in row.keys() - drop} for row in unbroken["rows"]
    ]
    states = [row["state"] for row in unbroken["rows"]]
    assert set(states) == {"done", "pruned"}
    for row in unbroken["rows"]:
        if row["state"] == "done":
            weights = [Path(name, row["run"], "model.safetensors").read_bytes() for name in ("unbroken", "stopped")]
            assert weights[0] == weights[1]
    done = [row for row in unbroken["rows"] if row["state"] == "done"]
    assert unbroken["best"]["validation_accuracy"] == max(row["validation_accuracy"] for row in done)
    # The test set was not opened; the best run alone is evaluated, once.
    assert {row["test_accuracy"] for row in unbroken["rows"]} == {None}
    for _ in range(2):
        assert cifar("sweep", "show", "unbroken", "--test") == 0
    best = Path("unbroken", unbroken["best"]["run"])
    readings = {run.name: read_json(run / "summary.json")["test_readings"] for run in best.parent.glob("*/")
                if (run / "summary.json").exists()}  # fmt: skip
    assert {name: len(reading) for name, reading in readings.items()} == {
        name: int(name == best.name) for name in readings
    }
    assert readings[best.name][0]["purpose"] == "best of a search"


def test_a_recipe_is_tried_once_and_a_small_space_wholly(capsys: pytest.CaptureFixture[str]) -> None:
    flags = (*SHORT, "-e", "1", "--search", "batch_size=100,250", "--search", "lr=0.001,0.003", "--trials", "4")
    assert cifar("sweep", "new", "study", *flags) == 0
    assert cifar("sweep", "work", "study") == 0
    rows = shown("study", capsys)["rows"]
    assert [row["trial"] for row in rows] == [1, 2, 3, 4]
    assert len({(row["values"]["batch_size"], row["values"]["lr"]) for row in rows}) == 4
    assert {row["state"] for row in rows} == {"done"}


def test_what_diverges_or_cannot_be_trained_has_failed_and_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert cifar("sweep", "new", "diverging", *SHORT, "-e", "1", "--set", "optimiser=sgd", "--search",
                 "lr=1e12..1e13", "--trials", "2") == 0  # fmt: skip
    assert cifar("sweep", "work", "diverging") == 0
    rows = shown("diverging", capsys)["rows"]
    assert [row["state"] for row in rows] == ["failed"] * 2
    assert all("diverged" in row["reason"] for row in rows)
    assert cifar("sweep", "new", "wrong", *SHORT, "-e", "2", "--set", "early_image_size=24", "--set", "early_epochs=1",
                 "--search", "early_epochs=1,1_0", "--trials", "1") == 2  # fmt: skip
    assert "early_epochs is" in capsys.readouterr().err
    assert not Path("wrong").exists()


def test_a_signal_leaves_the_trial_to_the_next_worker(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cifar("sweep", "new", "study", *SHORT, "-e", "2", "--seeds", "2") == 0
    steps = iter(range(1000))
    real = screens.TrialDisplay.should_stop

    def should_stop(display: screens.TrialDisplay) -> bool:
        if next(steps) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(display)

    monkeypatch.setattr(screens.TrialDisplay, "should_stop", should_stop)
    assert cifar("sweep", "work", "study") == 128 + signal.SIGTERM
    assert "Stopped; everything is saved. Go on with: cifar sweep work study" in capsys.readouterr().err
    states = [row["state"] for row in shown("study", capsys)["rows"]]
    assert states.count("stopped") == 1
    assert cifar("sweep", "show", "study") == 0
    assert "left by" in capsys.readouterr().out
    assert cifar("sweep", "work", "study") == 0
    rows = shown("study", capsys)["rows"]
    assert [row["state"] for row in rows] == ["done", "done"]
    assert sorted(read_json(Path("study", row["run"], "summary.json"))["sittings"] for row in rows) == [1, 2]
    stopped = states.index("stopped")
    assert cifar("train", *SHORT, "-e", "2", "--seed", str(stopped), "-s", "alone") == 0
    assert_same(Path("study", rows[stopped]["run"]), Path("alone"))


def test_a_trial_has_one_worker_and_those_left_come_first(tmp_path: Path) -> None:
    assert cifar("sweep", "new", "study", *SHORT, "--seeds", "3") == 0
    record = read_study(tmp_path / "study")
    one, other = (open_queue(tmp_path / "study", record, url="", say=print) for _ in range(2))
    with taken_trial(one, worker={"host": "a"}) as first, taken_trial(other, worker={"host": "b"}) as second:
        assert first
        assert second
        assert (first.params, second.params) == ({"seed": 0}, {"seed": 1})
        with taken_trial(one, worker={}) as third, taken_trial(other, worker={}) as none:
            assert third
            assert third.params == {"seed": 2}
            assert none is None
        states = [row["state"] for row in describe_study(other)["rows"]]
        assert states == ["running", "running", "stopped"]
        with taken_trial(other, worker={}) as third:
            assert third
            assert third.params == {"seed": 2}
    with taken_trial(other, worker={}) as again:
        assert again
        assert again.params == {"seed": 0}


def test_a_folder_without_locks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "claims").touch()  # in the place of the folder of locks
    with pytest.raises(WorldError, match="claims cannot be written"), held_queue(tmp_path):
        pass
    (tmp_path / "claims").unlink()
    (tmp_path / "claims" / "queue").mkdir(parents=True)  # which cannot be opened for writing
    with pytest.raises(WorldError, match="No lock can be had in"), held_queue(tmp_path):
        pass


def test_a_killed_worker_loses_no_trial(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers, of which one is killed in its training, and the other or a third does what it left."""
    monkeypatch.setenv("CIFAR_KERNELS", "pytorch")  # the workers' caches have none
    flags = ("-m", "cnn", "-e", "6", "--data", "sample")
    assert cifar("sweep", "new", "study", *flags, "--seeds", "2") == 0
    environment = os.environ | {"PYTHONPATH": str(Path(screens.__file__).parents[2])}
    command = [sys.executable, "-c", TWO_WORKERS]  # which import PyTorch once
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as both:
        assert both.stdout
        workers = [int(word) for word in both.stdout.readline().split()]
        while not (running := [row for row in shown("study", capsys)["rows"] if row["state"] == "running"]):
            time.sleep(0.05)
        time.sleep(0.1)
        killed = running[0]["worker"]["pid"]
        assert killed in workers
        os.kill(killed, signal.SIGKILL)
        errors = both.communicate()[1]
    assert both.returncode == signal.SIGKILL, errors  # and the other ended with 0
    assert "Traceback" not in errors
    assert cifar("sweep", "work", "study") == 0
    for seed, row in enumerate(shown("study", capsys)["rows"]):
        assert row["state"] == "done"
        assert cifar("train", *flags, "--seed", str(seed), "-s", f"alone-{seed}") == 0
        assert_same(Path("study", row["run"]), Path(f"alone-{seed}"))
