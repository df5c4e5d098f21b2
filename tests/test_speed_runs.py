"""benchmarks/speed_runs.py: the order of runs, the figures, and a real run that is not repeated."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from made_runs import make_run
from safetensors.torch import load_file
from scipy.stats import ttest_1samp
from scripts_by_path import ROOT, load_script

from cifar.data.cifar10 import load, open_dataset
from cifar.evaluation.predict import predict
from cifar.evaluation.seeds import mean_accuracy_interval
from cifar.runs import load_network, read_predictions

speed_runs = load_script("benchmarks/speed_runs.py")


def test_spread_interleaves_recipes_of_few_seeds() -> None:
    assert list(speed_runs.spread({"fast": 4, "reference": 2})) == [
        ("fast", 0), ("reference", 0), ("fast", 1), ("fast", 2), ("reference", 1), ("fast", 3),
    ]  # fmt: skip


def row(name: str, seed: int, accuracy: float, seconds: float, *, cpu: str = "this") -> dict[str, object]:
    return {"recipe": name, "seed": seed, "test_accuracy": accuracy, "seconds": seconds, "cpu": cpu}


def test_figures_agree_with_scipy(tmp_path: Path) -> None:
    accuracies = [0.94, 0.942, 0.939]
    figures = speed_runs.figures(
        [row("speednet", 0, each, 100.0 + 10 * i) for i, each in enumerate(accuracies)], tmp_path
    )
    ends = ttest_1samp(accuracies, 0).confidence_interval(0.95)
    assert figures["mean_accuracy"] == pytest.approx(statistics.fmean(accuracies))
    assert figures["std"] == pytest.approx(statistics.stdev(accuracies))
    assert figures["interval"] == pytest.approx([ends.low, ends.high])
    assert [figures[key] for key in ("seeds", "seconds", "lowest_seconds", "highest_seconds")] == [3, 110, 100, 120]
    one = speed_runs.figures([row("speednet", 0, 0.94, 100.0)], tmp_path)
    assert (one["std"], one["interval"]) == (None, None)


def test_figures_of_runs_with_predictions_hold_the_luck_of_images(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels, hits = generator.integers(0, 10, 500), generator.random((2, 500)) < 0.9
    for seed, right in enumerate(hits):
        probs = np.eye(10, dtype=np.float32)[np.where(right, labels, (labels + 1) % 10)]
        run = make_run(tmp_path / f"speednet-{seed}", labels, probs, seed=seed)
        (run / "evaluation-test-none.json").write_text(json.dumps({"accuracy": 0.8 + 0.1 * seed}))
    rows = [row("speednet", seed, right.mean(), 100.0) for seed, right in enumerate(hits)]
    figures = speed_runs.figures(rows, tmp_path)
    assert figures["interval"] == pytest.approx(mean_accuracy_interval(hits))
    assert (figures["interval_over"], figures["mean_accuracy_one_view"]) == ("seeds and images", pytest.approx(0.85))
    (tmp_path / "speednet-1" / "predictions.npz").unlink()
    assert speed_runs.figures(rows, tmp_path)["interval_over"] == "seeds"


def test_ratios_are_to_the_fastest_of_pytorchs_ways_and_to_our_kernels(tmp_path: Path) -> None:
    times = {"speednet": 110.0, "speednet-reference": 220.0, "speednet-reference-bf16": 200.0,
             "speednet-reference-native": 137.5}  # fmt: skip
    found = speed_runs.figures_of_cpu([row(name, 0, 0.94, seconds) for name, seconds in times.items()], tmp_path)
    ratios = ("ratio", "ratio_to_best_reference", "ratio_to_native_reference")
    assert [found["recipes"]["speednet"][key] for key in ratios] == [0.5, 0.55, 0.8]
    assert (found["best_reference"], found["reference_seconds"]) == ("speednet-reference-bf16", 220)
    alone = speed_runs.figures_of_cpu([row("speednet", 0, 0.94, 110.0)], tmp_path)
    assert [alone["recipes"]["speednet"][key] for key in ratios] == [None] * 3
    assert (alone["best_reference"], alone["reference_accuracy"]) == (None, None)


def test_kinds_of_cpu_are_kept_apart(tmp_path: Path) -> None:
    rows = [row("speednet", 0, 0.95, 300.0, cpu="other"), row("speednet", 0, 0.94, 100.0),
            row("speednet", 1, 0.93, 120.0), row("speednet-reference", 0, 0.94, 200.0)]  # fmt: skip
    for cpu in ("this", "other"):
        (tmp_path / cpu / "speednet-0").mkdir(parents=True)
        (tmp_path / cpu / "speednet-0" / "summary.json").write_text(json.dumps({"machine": cpu, "versions": {}}))
    table = speed_runs.table(tmp_path, rows, main="speednet")
    assert (table["machine"], table["seeds"], table["seconds"], table["ratio"]) == ("this", 2, 110, 0.55)
    other = table["cpus"]["other"]
    assert (other["machine"], other["recipes"]["speednet"]["seconds"]) == ("other", 300)
    assert table["commands"] == {
        "speednet": "cifar train -m speednet",
        "speednet-reference": "cifar train -m speednet-reference --kernels pytorch --compile",
    }


def test_the_kind_of_a_cpu_is_what_decides_its_speed() -> None:
    machine = {"instructions": "AVX512", "native_bf16": True, "processor_model": "family25 model17", "cores": 2}
    assert speed_runs.kind_of_cpu(machine) == "avx512-bf16-family25-model17-2cores"
    assert speed_runs.kind_of_cpu({"instructions": "NO AVX", "native_bf16": False, "cores": 8}) == "noavx-8cores"


def test_speed_runs_times_and_keeps_a_run_and_does_not_repeat_it(tmp_path: Path) -> None:
    command = [
        sys.executable,
        ROOT / "benchmarks" / "speed_runs.py",
        tmp_path / "kept",
        "cnn=1",
        "--data",
        "sample",
        "--set",
        "epochs=1",
        "--set",
        "views=mirror",
    ]
    texts = []
    for _ in range(2):
        subprocess.run(command, check=True, capture_output=True)
        texts.append((tmp_path / "kept" / "runs.json").read_text())
    assert texts[0] == texts[1]
    (row,) = json.loads(texts[0])
    summary = json.loads((tmp_path / "kept" / row["cpu"] / "cnn-0" / "summary.json").read_text())
    assert row["cpu"] == speed_runs.kind_of_cpu(summary["machine"])
    assert row["test_accuracy"] == summary["test_accuracy"]
    assert row["seconds"] > row["training_seconds"] == summary["seconds"]
    assert str(tmp_path) not in json.dumps(summary)
    table = json.loads((tmp_path / "kept" / "table.json").read_text())
    assert table["mean_accuracy"] == row["test_accuracy"]
    assert summary["weights"].endswith("of 200 test predictions")
    folder = tmp_path / "kept" / row["cpu"] / "cnn-0"
    model, images = load_network(folder), load(open_dataset("sample"), "test").images
    assert next(iter(load_file(folder / "model.safetensors").values())).dtype == torch.float16
    probs = predict(model, images, views="mirror")
    assert torch.allclose(probs, torch.from_numpy(read_predictions(folder)[0]), atol=1e-3)
    one_view = np.load(tmp_path / "kept" / row["cpu"] / "cnn-0" / "predictions-test-none.npz")
    assert table["mean_accuracy_one_view"] == (one_view["probs"].argmax(1) == one_view["labels"]).mean()
    assert [reading["purpose"] for reading in summary["test_readings"]] == [
        "result of the run", "cifar evaluate --tta none",
    ]  # fmt: skip
