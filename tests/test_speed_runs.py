"""benchmarks/speed_runs.py: the order of runs, the figures, and a real run that is not repeated."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from scipy.stats import ttest_1samp
from scripts_by_path import ROOT, load_script

speed_runs = load_script("benchmarks/speed_runs.py")
HERE, THERE = {"processor": "this one"}, {"processor": "another"}


def test_spread_interleaves_recipes_of_few_seeds() -> None:
    assert list(speed_runs.spread({"fast": 4, "reference": 2})) == [
        ("fast", 0), ("reference", 0), ("fast", 1), ("fast", 2), ("reference", 1), ("fast", 3),
    ]  # fmt: skip


def test_table_agrees_with_scipy() -> None:
    accuracies, seconds = [0.94, 0.942, 0.939], [100.0, 110.0, 120.0]
    rows = [
        {"recipe": "speednet", "seed": seed, "test_accuracy": accuracy, "seconds": time, "machine": HERE}
        for seed, (accuracy, time) in enumerate(zip(accuracies, seconds, strict=True))
    ]
    rows.append({"recipe": "speednet-reference", "seed": 0, "test_accuracy": 0.941, "seconds": 220.0, "machine": HERE})
    table = speed_runs.table(rows, main="speednet")
    ends = ttest_1samp(accuracies, 0).confidence_interval(0.95)
    assert table["mean_accuracy"] == pytest.approx(statistics.fmean(accuracies))
    assert table["std"] == pytest.approx(statistics.stdev(accuracies))
    assert table["interval"] == pytest.approx([ends.low, ends.high])
    assert (table["seeds"], table["seconds"], table["reference_seconds"], table["ratio"]) == (3, 110, 220, 0.5)
    reference = table["recipes"]["speednet-reference"]
    assert (reference["ratio"], reference["std"], reference["interval"]) == (1, None, None)
    alone = speed_runs.table(rows[:3], main="speednet")
    assert (alone["ratio"], alone["reference_accuracy"]) == (None, None)


def test_table_counts_accuracies_of_all_machines_and_times_of_the_references_machine() -> None:
    runs = [("speednet", 0.94, 300.0, THERE), ("speednet", 0.95, 100.0, HERE), ("speednet", 0.93, 120.0, HERE),
            ("speednet-quick", 0.91, 60.0, THERE), ("speednet-reference", 0.94, 200.0, HERE)]  # fmt: skip
    names = ("recipe", "test_accuracy", "seconds", "machine")
    rows = [dict(zip(names, run, strict=True)) | {"seed": seed} for seed, run in enumerate(runs)]
    table = speed_runs.table(rows, main="speednet")
    assert (table["machine"], table["seeds"], table["timed"]) == (HERE, 3, 2)
    assert table["mean_accuracy"] == pytest.approx(0.94)
    assert (table["seconds"], table["ratio"]) == (110, 0.55)
    assert [(run["recipe"], run["seconds"]) for run in table["elsewhere"]] == [
        ("speednet", 300),
        ("speednet-quick", 60),
    ]
    quick = table["recipes"]["speednet-quick"]
    assert (quick["mean_accuracy"], quick["timed"], quick["seconds"], quick["ratio"]) == (0.91, 0, None, None)


def test_commands_name_the_flags_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_runs, "summary_of", lambda _folder, _row: {"versions": {}})
    rows = [{"recipe": "speednet", "seed": 0}, {"recipe": "speednet-reference", "seed": 0}]
    assert speed_runs.versions_and_commands(Path(), rows)["commands"] == {
        "speednet": "cifar train -m speednet",
        "speednet-reference": "cifar train -m speednet-reference --kernels pytorch --compile",
    }


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
    ]
    texts = []
    for _ in range(2):
        subprocess.run(command, check=True, capture_output=True)
        texts.append((tmp_path / "kept" / "runs.json").read_text())
    assert texts[0] == texts[1]
    (row,) = json.loads(texts[0])
    summary = json.loads((tmp_path / "kept" / "cnn-0" / "summary.json").read_text())
    assert row["test_accuracy"] == summary["test_accuracy"]
    assert row["seconds"] > row["training_seconds"] == summary["seconds"]
    assert str(tmp_path) not in json.dumps(summary)
    assert json.loads((tmp_path / "kept" / "table.json").read_text())["mean_accuracy"] == row["test_accuracy"]
