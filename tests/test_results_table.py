"""The README's tables are written from `results/` by a script and never by hand, and results only from tested runs."""

import json
from pathlib import Path

import pytest
from scripts_by_path import ROOT, load_script

results_table = load_script("scripts/results_table.py")
record = load_script("scripts/record.py")


def test_readme_has_the_tables_that_the_script_writes() -> None:
    text = (ROOT / "README.md").read_text()
    assert results_table.with_tables(text, ROOT / "results") == text
    assert text.count("results/resnet-better") == 1
    changed = text.replace("| 0 | 50 |", "| 0 | 51 |")
    assert changed != text
    assert results_table.with_tables(changed, ROOT / "results") == text


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
