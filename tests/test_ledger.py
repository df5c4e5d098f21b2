"""The ledger of test evaluations holds what summaries say, of every version that git has."""

import subprocess
from typing import Any

import pytest
from scripts_by_path import ROOT, load_script

ledger = load_script("scripts/ledger.py")


def summary(*times: str, accuracy: float = 0.9) -> dict[str, Any]:
    readings = [{"time": time, "purpose": "result of the run"} for time in times]
    return {"command": "cifar train -m cnn -e 2", "test_readings": readings, "test_accuracy": accuracy}


def test_each_evaluation_counts_once_also_of_replaced_runs() -> None:
    versions = [
        ("results/cnn", summary("2026-01-01T00:00", accuracy=0.5)),
        ("results/cnn", summary("2026-01-03T00:00")),
        ("results/cnn", summary("2026-01-03T00:00", "2026-01-02T00:00")),
        ("results/other", summary("2026-01-03T00:00")),
    ]
    found = ledger.evaluations(versions, {"2026-01-03T00:00"})
    assert [(each.time[8:10], each.run, each.kept) for each in found] == [
        ("01", "cnn", False), ("02", "cnn", False), ("03", "cnn", True), ("03", "other", True),
    ]  # fmt: skip
    assert found[0].accuracy == 0.5
    assert "| `cnn` | 4 | 4 | 2 | 2026-01-01 | 2026-01-03 |" in ledger.tables(found)


def test_the_page_is_what_the_script_writes() -> None:
    shallow = subprocess.run(
        ["git", "rev-parse", "--is-shallow-repository"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    if shallow.strip() != "false":
        pytest.skip("the history of results/ is not whole here")
    text = (ROOT / ledger.PAGE).read_text()
    assert ledger.written(text) == text
