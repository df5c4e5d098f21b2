"""Recorded figures are what an independent computation gives, and a wrong one is found."""

import json
import shutil
from pathlib import Path

import pytest
from scripts_by_path import ROOT, load_script

recompute = load_script("scripts/recompute.py")


def test_all_recorded_figures_are_found_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert recompute.main() == 0, capsys.readouterr().out
    compared = int(capsys.readouterr().out.split()[0].replace(",", ""))
    assert compared > 500


@pytest.mark.parametrize("file, key", [
    ("summary.json", "test_accuracy"), ("evaluation.json", "loss"), ("evaluation.json", "brier"),
    ("evaluation.json", "adaptive_calibration_error"),
])  # fmt: skip
def test_a_wrong_figure_is_found(file: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(ROOT / "results" / "resnet", tmp_path / "resnet")
    values = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(values | {key: values[key] + 1e-3}))
    monkeypatch.setattr(recompute, "RESULTS", tmp_path)
    differences = recompute.Differences()
    recompute.check_run(folder, differences)
    assert len(differences.found) == 1
    assert key in differences.found[0]
