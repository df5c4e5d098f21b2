"""benchmarks/gpu.py runs without a GPU, at tiny size, and says what it would measure."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from scripts_by_path import load_script

ROOT = Path(__file__).parent.parent
gpu = load_script("benchmarks/gpu.py")


def test_all_of_it_runs_without_a_gpu(tmp_path: Path) -> None:
    """The checks, a run as a person starts it, and the profile; each is a row that is written at once."""
    output = tmp_path / "gpu" / "table.json"
    command = ["bash", ROOT / "benchmarks" / "gpu.sh", "--cpu", "--only", "cnn", "--output", output]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHON": sys.executable})
    assert done.returncode == 0, done.stderr + done.stdout
    table = json.loads(output.read_text())
    rows = {row["name"]: row for row in table["rows"]}
    assert rows["cnn: captured steps are the steps"]["figure"] is True
    assert rows["cnn: resumed, the same bits"]["figure"] is True
    assert rows["cnn: training"]["figure"] > 0
    assert rows["cnn: training"]["goal"] == 250_000
    assert rows["cnn: training"]["seconds_to_result"] <= rows["cnn: training"]["process_seconds"]
    assert 0 < rows["cnn: the GPU computes"]["figure"] <= 1
    assert table["commit"]
    assert "cnn: training" in done.stdout.splitlines()[-2]


def test_a_union_of_intervals() -> None:
    assert gpu.covered([]) == 0
    assert gpu.covered([(5, 6), (0, 2), (1, 3), (2, 2.5)]) == 4


def test_seeds_are_summed_up_and_a_failure_is_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = gpu.Table(tmp_path / "table.json", "cpu")
    table.attempt("nothing", lambda: 1 / 0)
    run = {"training_seconds": 1.5, "timing": {"evaluation": 0.25}, "seconds_to_result": 9.0, "said": []}
    gpu.add_seeds(table, [run | {"test_accuracy": 0.94}, run | {"test_accuracy": 0.942}])
    failed, accuracy, whole, both = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert "ZeroDivisionError" in failed["failed"]
    assert (accuracy["figure"], accuracy["seeds"]) == (pytest.approx(0.941), 2)
    assert accuracy["interval"][0] < 0.94 < 0.942 < accuracy["interval"][1]
    assert (whole["figure"], both["figure"]) == (9.0, 1.75)
    out = capsys.readouterr().out
    assert "not measured" in out
    assert "(goal 10.0)" in out
