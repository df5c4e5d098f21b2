"""The README's tables are written from `results/` by a script and never by hand, and results only from tested runs."""

import json
from pathlib import Path

import numpy as np
import pytest
from made_runs import make_run
from scripts_by_path import ROOT, load_script

from cifar.evaluation.seeds import mean_accuracy_interval

results_table = load_script("scripts/results_table.py")
record = load_script("scripts/record.py")


@pytest.mark.parametrize("name, row, changed_row", [
    ("README.md", "| 1 | 269,722 |", "| 2 | 269,722 |"), ("docs/results.md", "| 0 | 50 |", "| 0 | 51 |"),
])  # fmt: skip
def test_pages_have_the_tables_that_the_script_writes(name: str, row: str, changed_row: str) -> None:
    text = (ROOT / name).read_text()
    assert results_table.with_tables(name, text, ROOT / "results") == text
    changed = text.replace(row, changed_row)
    assert changed != text
    assert results_table.with_tables(name, changed, ROOT / "results") == text


def test_runs_of_one_recipe_are_one_row_with_an_interval_over_seeds_and_images(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels, hits = generator.integers(0, 10, 400), generator.random((3, 400)) < 0.8
    for seed, right in enumerate(hits):
        probs = np.eye(10, dtype=np.float32)[np.where(right, labels, (labels + 1) % 10)]
        folder = make_run(tmp_path / f"cnn-{seed}", labels, probs, seed=seed)
        summary = json.loads((folder / "summary.json").read_text())
        summary["machine"]["instructions"] = "AVX2"
        summary |= {"command": "cifar train -m cnn", "test_accuracy": right.mean(), "seconds": 60 * (seed + 1)}
        (folder / "summary.json").write_text(json.dumps(summary))
    (row,) = results_table.recorded_models(tmp_path)
    assert row["interval"] == pytest.approx(mean_accuracy_interval(hits))
    assert (row["recipe"], row["seeds"], row["run"], row["minutes"]) == ("cnn", 3, "cnn-0", 2.0)
    assert row["accuracy"] == pytest.approx(hits.mean())


def test_figures_of_a_gpu_are_those_of_its_record(tmp_path: Path) -> None:
    assert results_table.gpu_table(tmp_path).startswith("Not measured")
    rows = [
        {"name": "cnn: captured steps are the steps", "figure": True, "unit": "", "goal": None},
        {"name": "cnn: training", "figure": 251_234.5, "unit": "images/s", "goal": 250_000, "seconds_to_result": 7.25},
        {"name": "vit", "figure": None, "unit": "", "goal": None, "failed": "RuntimeError"},
        {"name": "speednet: test accuracy", "figure": 0.9412, "unit": "", "goal": 0.94, "seeds": 5},
        {"name": "speednet: share", "figure": 1.0, "unit": "of an epoch", "goal": 0.9},
    ]
    (tmp_path / "gpu").mkdir()
    record = {"card": "NVIDIA H100", "versions": {"torch": "2.11"}, "commit": "abc", "rows": rows}
    (tmp_path / "gpu" / "table.json").write_text(json.dumps(record))
    lines = results_table.gpu_table(tmp_path).splitlines()[2:]
    assert lines[:5] == [
        "| cnn: captured steps are the steps | yes |  |  |  |  |",
        "| cnn: training | 251,234 images/s | 250,000 images/s |  | 7.25 |  |",
        "| vit | not measured |  |  |  |  |",
        "| speednet: test accuracy | 0.9412 | 0.94 | 5 |  |  |",
        "| speednet: share | 1 of an epoch | 0.9 of an epoch |  |  |  |",
    ]
    assert lines[-1] == "On NVIDIA H100; PyTorch 2.11; commit abc."


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"state": "trained"}, "is trained, not tested"),
        ({"state": "unfinished"}, "is unfinished, not tested"),
        ({"data": "SAMPLE OF CIFAR-10"}, "was trained on SAMPLE"),
        ({"commit": "abc+changes"}, r"is in no commit \(abc\+changes\)"),
        ({"commit": ""}, "is in no commit"),
    ],
)
def test_record_refuses_what_cannot_be_trusted(changes: dict[str, str], message: str, tmp_path: Path) -> None:
    summary = {"state": "tested", "data": "CIFAR-10", "commit": "abc"}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    record.check_recordable(tmp_path)
    (tmp_path / "summary.json").write_text(json.dumps(summary | changes))
    with pytest.raises(SystemExit, match=message):
        record.check_recordable(tmp_path)


def test_record_takes_the_recorded_runs() -> None:
    """Also those of versions that wrote no state."""
    record.check_recordable(ROOT / "results" / "resnet")
