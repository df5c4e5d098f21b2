"""What wandb and TensorBoard are told is what metrics.csv holds; nothing that happens to them ends a training."""

import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import summary_of
from PIL import Image

from cifar.cli import app, run_app
from cifar.files import write_json
from cifar.recipes import recipe_for, with_fields
from cifar.runs import metrics_text, read_json, read_metrics, update_summary, wandb_id, write_files
from cifar.runs.results import COLUMNS
from cifar.training import loggers
from cifar.training.loggers import Tolerated, open_loggers

ROOT = Path(__file__).parent.parent.parent
QUICK = ["train", "-m", "cnn", "-e", "2", "-b", "100", "-l", "1e-3", "-d", "cpu", "--data", "sample"]


def history(path: Path) -> Iterator[dict[str, float]]:
    """The rows in the file of an offline wandb run: protobuf records in LevelDB's log format, after a 7-byte head."""
    internal = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    data, block, place, whole = path.read_bytes(), 32_768, 7, b""
    while place + 7 <= len(data):
        if block - place % block < 7:  # what is left of a block is padding
            place += block - place % block
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            record = internal.Record.FromString(whole)
            whole = b""
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                yield {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in items}


def test_wandb_without_a_login_records_offline_and_says_so(tmp_path: Path) -> None:
    """As a person starts it who has no login: without WANDB_MODE, with a home of their own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, ROOT / "train.py", *QUICK[1:], "-w", "-s", tmp_path / "run"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("wandb")]
    assert len(said) == 1, said
    assert said[0].startswith("wandb has no login here, so it records offline")
    (path,) = (tmp_path / "run").glob("wandb/offline-run-*/*.wandb")
    rows, metrics = list(history(path)), read_metrics(tmp_path / "run")
    assert len(rows) == len(metrics) == 2
    assert {"curves", "confusion", "reliability", "mistakes"} <= rows[-1].keys()
    assert len(list((tmp_path / "run").glob("wandb/offline-run-*/files/media/images/*.png"))) == 6
    for told, written in zip(rows, metrics, strict=True):
        assert {name: told[name] for name in written} == pytest.approx(written, nan_ok=True)


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize("package", ["wandb", "torch.utils.tensorboard"])
def test_a_missing_package_is_one_sentence(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert run_app(app, [*QUICK, "-w", "--tensorboard", "-s", str(tmp_path / "run")], program="cifar") == 0
    name = package.rpartition(".")[2]
    assert f'the package {name} is absent: pip install "cifar[{name}]"' in capsys.readouterr().err
    assert len(read_metrics(tmp_path / "run")) == 2
    # The other one has its files.
    assert (tmp_path / "run" / "tensorboard").exists() == (name == "wandb")
    assert (tmp_path / "run" / "wandb").exists() == (name != "wandb")


class Failing:
    def __init__(self, fails: str) -> None:
        self.fails = fails
        self.calls: list[str] = []

    def act(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fails:
            raise ConnectionError("no route.\nmore lines")

    def log(self, row: Mapping[str, float]) -> None:
        self.act(f"log {row['epoch']:.0f}")

    def result(self, figures: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        self.act(f"result {figures['epochs']:.0f} {len(pictures)}")

    def close(self) -> None:
        self.act("close")


@pytest.mark.parametrize(
    "fails, calls",
    [
        ("", ["log 1", "log 2", "result 2 0", "close"]),
        ("log 1", ["log 1"]),
        ("result 2 0", ["log 1", "log 2", "result 2 0"]),
        ("close", ["log 1", "log 2", "result 2 0", "close"]),
    ],
)
def test_a_failure_is_told_once_and_the_logger_left_alone(fails: str, calls: list[str]) -> None:
    said: list[str] = []
    failing = Failing(fails)
    logger = Tolerated("wandb", failing, said.append)
    for epoch in (1, 2):
        logger.log({"epoch": epoch})
    logger.result({"epochs": 2}, {})
    logger.close()
    assert failing.calls == calls
    assert said == ["The run goes on without wandb: no route. metrics.csv has every epoch."] * bool(fails)


def test_one_that_cannot_begin_does_not_take_the_other_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(loggers, "WandbLogger", refuse)
    said: list[str] = []
    opened = open_loggers(tmp_path, recipe=recipe_for("cnn"), wandb_id="some", tensorboard=True, say=said.append)
    assert [logger.name for logger in opened if isinstance(logger, Tolerated)] == ["TensorBoard"]
    opened[0].log({"epoch": 1, "train_loss": 0.5})
    opened[0].close()
    assert list((tmp_path / "tensorboard").iterdir())
    assert said == ["The run goes on without wandb: RuntimeError. metrics.csv has every epoch."]


def scalars(folder: Path) -> dict[int, list[float]]:
    """What TensorBoard shows of the training loss: its values by step."""
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    shown = accumulators.EventAccumulator(str(folder / "tensorboard"))
    shown.Reload()
    values: dict[int, list[float]] = {}
    for event in shown.Scalars("train_loss"):
        values.setdefault(event.step, []).append(event.value)
    return values


def test_the_result_and_its_pictures_are_logged(tmp_path: Path) -> None:
    """As summary.json and the run's files have them; also when the run was killed after its training."""
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    flags = [*QUICK, "--tensorboard", "-s", str(tmp_path / "run")]
    assert run_app(app, flags, program="cifar") == 0
    summary, evaluation = read_json(tmp_path / "run" / "summary.json"), read_json(tmp_path / "run" / "evaluation.json")

    def check() -> None:
        shown = accumulators.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
        shown.Reload()
        last = {name: shown.Scalars(name)[-1] for name in shown.Tags()["scalars"]}
        assert last["test_accuracy"].value == pytest.approx(summary["test_accuracy"])
        assert last["test_loss"].value == pytest.approx(evaluation["loss"])
        assert last["temperature"].value == pytest.approx(evaluation["temperature_scaling"]["temperature"])
        assert last["test_accuracy"].step == 2
        assert sorted(shown.Tags()["images"]) == [
            "confusion",
            "curves",
            "mistakes",
            "reliability",
            "train_batch",
            "val_batch",
        ]
        (picture,) = shown.Images("curves")[-1:]
        with (
            Image.open(tmp_path / "run" / "curves.png") as drawn,
            Image.open(io.BytesIO(picture.encoded_image_string)) as got,
        ):
            assert np.array_equal(np.asarray(drawn.convert("RGB")), np.asarray(got))

    check()
    shutil.rmtree(tmp_path / "run" / "tensorboard")
    update_summary(tmp_path / "run", state="trained", test_accuracy=None, test_interval=None)
    assert run_app(app, ["train", "--resume", str(tmp_path / "run"), "--tensorboard"], program="cifar") == 0
    check()


def test_tensorboard_shows_each_epoch_once_after_a_kill(tmp_path: Path) -> None:
    """The killed run had logged an epoch that it did not keep, and not one that it kept."""
    rows = [dict.fromkeys(COLUMNS, 0.5) | {"epoch": epoch, "train_loss": 1.0 / epoch} for epoch in (1, 2, 3)]
    for kept, logged in ((1, [rows[0], rows[1] | {"train_loss": 9.0}]), (3, [])):
        write_files(tmp_path, {"metrics.csv": metrics_text(rows[:kept])})
        (logger,) = open_loggers(tmp_path, recipe=recipe_for("cnn"), wandb_id="", tensorboard=True, say=print)
        for row in logged[1:]:
            logger.log(row)
        logger.close()
    assert scalars(tmp_path) == {epoch: [pytest.approx(1.0 / epoch)] for epoch in (1, 2, 3)}


def test_a_logger_that_hangs_is_left_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "SECONDS", 0.05)
    said: list[str] = []
    forever = threading.Event()
    hanging = Failing("")
    monkeypatch.setattr(hanging, "log", lambda _: forever.wait(9))
    logger = Tolerated("wandb", hanging, said.append)
    started = time.perf_counter()
    for epoch in (1, 2):
        logger.log({"epoch": epoch})
    forever.set()
    assert time.perf_counter() - started < 5
    assert said == ["The run goes on without wandb: no answer in 0.05 seconds. metrics.csv has every epoch."]


def test_folds_of_two_cross_validations_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    begun: list[dict[str, Any]] = []
    monkeypatch.setattr(wandb, "init", lambda **options: begun.append(options))
    recipe = with_fields(recipe_for("cnn"), num_folds=2)
    for name in ("first", "second"):
        folder = tmp_path / name / "fold-0"
        folder.mkdir(parents=True)
        write_json(folder / "summary.json", summary_of())
        loggers.WandbLogger(folder, recipe=recipe, run_id=wandb_id(folder), say=print)
    assert [options["name"] for options in begun] == ["first/fold-0", "second/fold-0"]
    assert begun[0]["id"] != begun[1]["id"]
    assert begun[0]["settings"].x_disable_meta  # the command, which may hold a password
