"""`cifar bench` runs and measures what it says. Nothing here is timed: that is for the bench itself."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cifar.bench import suite, textbook
from cifar.bench.suite import Line, operations
from cifar.cli import app, run_app
from cifar.data.cifar10 import Dataset, load
from cifar.recipes import recipe_for
from cifar.timing import Timing, in_turn


def test_in_turn_interleaves_alternatives_and_discards_the_first_round() -> None:
    order: list[str] = []

    def measure(name: str, value: float) -> float:
        order.append(name)
        return value * len(order)

    timings = in_turn({"a": lambda: measure("a", 1.0), "b": lambda: measure("b", 10.0)}, repeats=3)
    assert order == ["a", "b"] * 4
    assert timings["a"].values == (3.0, 5.0, 7.0)
    assert (timings["b"].median, timings["b"].low, timings["b"].high) == (60.0, 40.0, 80.0)


@pytest.mark.parametrize("unit, ratio", [("images/s", 2.0), ("s", 0.5)])
def test_ratio_above_one_means_ours_is_better(unit: str, ratio: float) -> None:
    assert Line("x", unit, Timing((4.0,)), Timing((2.0,))).ratio == ratio
    assert Line("x", unit, Timing((4.0,))).ratio is None


def test_operations_of_cnn_agree_with_a_count_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward, two per multiply-add; backward, twice that, except in the first layer, whose input needs no gradient."""
    from cifar.models import build_model

    layers: list[int] = []

    def counting(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def layer(features: torch.Tensor, weight: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
            outputs = function(features, weight, *arguments, **options)
            positions = outputs[0].numel() // weight.shape[0]  # where the weights are applied, per image
            layers.append(2 * weight.numel() * positions)
            return outputs

        return layer

    with monkeypatch.context() as patched:
        for name in ("conv2d", "linear"):
            patched.setattr(F, name, counting(getattr(F, name)))
        build_model(recipe_for("cnn"))(torch.rand(1, 3, 32, 32))
    assert len(layers) == 6
    assert operations(recipe_for("cnn")) == 3 * sum(layers) - layers[0]


def test_torchvision_reads_the_written_batches(sample: Dataset, tmp_path: Path) -> None:
    training, test = load(sample, "train"), load(sample, "test")
    textbook.write_python_batches(training, test, tmp_path)
    theirs = textbook.open_torchvision(tmp_path)
    assert len(theirs) == 1000
    assert torch.equal(torch.from_numpy(theirs.data).permute(0, 3, 1, 2), training.images)
    assert theirs.targets == training.labels.tolist()
    pixels, label = theirs[3]
    assert pixels.shape == (3, 32, 32)
    assert label == training.labels[3]


def test_textbook_loop_updates_the_weights(sample: Dataset, tmp_path: Path) -> None:
    """What ours is compared with must be a training, not a loop that does nothing."""
    training = load(sample, "train")
    textbook.write_python_batches(training, load(sample, "test"), tmp_path)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
    before = model[1].weight.detach().clone()
    assert textbook.train_steps(model, textbook.open_torchvision(tmp_path), batch_size=50, steps=2) > 0
    assert not torch.equal(model[1].weight, before)


@pytest.mark.filterwarnings("default")  # of worker processes, where this one has threads
def test_bench_measures_all_groups(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Peak memory is that of a process of its own, whatever this one holds."""
    monkeypatch.setattr(suite, "QUICK", dataclasses.replace(suite.QUICK, networks=("cnn",)))
    held = np.ones(2_000_000_000, dtype=np.uint8)  # whose large pages come much faster than torch's
    assert run_app(app, ["bench", "--quick", "--data", "sample", "--json"], program="cifar") == 0
    record = json.loads(capsys.readouterr().out)
    names = [line["name"] for line in record["lines"]]
    assert names[:3] == ["peak, matrices", "peak, 3×3 filters", "train cnn"]
    assert names[-2:] == ["memory, cnn", "memory, speednet-reference"]
    assert held.sum() > 0
    assert 0.1 < record["lines"][-1]["median"] < 1.5
    for line in record["lines"]:
        assert line["median"] > 0, line
        assert (line["other_median"] is None) == (line["ratio"] is None)
    assert record["machine"]["cores"] >= 1


def test_bench_prints_one_group_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["bench", "--quick", "--data", "sample", "--only", "inference"], program="cifar") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["median", "lowest", "highest", "other", "ratio", "peak"]
    assert [line.split(",")[0] for line in lines[1:3]] == ["predict cnn", "predict speednet"]
    assert run_app(app, ["bench", "--data", "sample", "--only", "speed"], program="cifar") == 2
    assert "choose from training, data, loading, inference, memory" in capsys.readouterr().err


def test_bench_measures_one_group_in_a_fresh_process() -> None:
    """Where no other group has made torchvision importable before (`cifar.models.repair`)."""
    command = [sys.executable, "-m", "cifar", "bench", "--quick", "--data", "sample", "--only", "data"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "crop and flip" in done.stdout
