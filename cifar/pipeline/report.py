"""The report of runs: read, compared, rendered, written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cifar.errors import InputError, WorldError
from cifar.evaluation.comparison import compare_runs
from cifar.reporting.records import Record, read_evaluated_runs, read_records
from cifar.reporting.report import render
from cifar.runs import CORRUPTIONS, REFERENCES, REPORT, write_file


def write_report(runs: Sequence[Path], output: Path | None, *, command: str) -> Path:
    """Write one HTML file of all that is known of runs; of several also which of them differ.

    Args:
        runs: folders of tested runs, of cross-validations or of studies.
        output: the file; None is report.html in the run's folder, or of several in this one.
        command: that made it, shown in it.

    Returns:
        the file.

    Raises:
        InputError: a folder is no tested run's, or the file is a folder.
        WorldError: a file of a run is damaged, or the report cannot be written.
    """
    path = output or (runs[0] / REPORT if len(runs) == 1 else Path(REPORT))
    if path.is_dir():
        raise InputError(f"{path} is a folder: name the HTML file, such as --output {path / 'report.html'}.")
    records = read_records(runs, extras=(REFERENCES, CORRUPTIONS))
    records.sort(key=lambda record: -record.summary["test_accuracy"])
    comparison = compare_records(records) if len(records) > 1 else None
    write_file(path, render(records, command=command, comparison=comparison))
    return path


def compare_records(records: Sequence[Record]) -> dict[str, Any]:
    """Return what `compare_runs` says of the runs, or under "reason" why they cannot be compared."""
    try:
        return compare_runs(read_evaluated_runs([record.folder for record in records]))
    except (InputError, WorldError) as error:
        return {"reason": str(error)}
