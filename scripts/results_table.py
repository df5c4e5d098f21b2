"""Write the README's table from results/*/summary.json and crossval.json: `python scripts/results_table.py`."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- results: written by scripts/results_table.py -->\n", "<!-- end of results -->\n"
HEAD = (
    "| run | test accuracy | 95 % interval | seed | epochs | training | machine | command |\n"
    "|---|---|---|---|---|---|---|---|\n"
)


def table(results: Path) -> str:
    """A row for every recorded run, by name."""
    rows = [row_of_run(path.parent) for path in sorted(results.glob("*/summary.json"))]
    rows += [row_of_crossval(path.parent) for path in sorted(results.glob("*/crossval.json"))]
    return HEAD + "".join(rows)


def row_of_run(folder: Path) -> str:
    """One recorded run: the interval is Wilson's, over the test images."""
    summary = json.loads((folder / "summary.json").read_text())
    return row(folder, f"{summary['test_accuracy']:.2%}", summary["test_interval"], summary["seed"], summary)


def row_of_crossval(folder: Path) -> str:
    """One recorded cross-validation: mean and standard deviation over the folds, Student's interval."""
    result = json.loads((folder / "crossval.json").read_text())
    first = json.loads((folder / "fold-0" / "summary.json").read_text())
    test, num_folds = result["test"], result["num_folds"]
    accuracy = f"{test['mean']:.2%} ± {100 * test['std']:.2f} (mean ± s of {num_folds} folds)"
    seeds = f"{first['seed']} … {first['seed'] + num_folds - 1}"
    return row(folder, accuracy, test["interval"], seeds, first | {"seconds": result["seconds"]})


def row(folder: Path, accuracy: str, interval: list[float], seed: object, summary: dict[str, Any]) -> str:
    """A line of the table."""
    machine = summary["machine"]
    cells = (
        f"[{folder.name}](results/{folder.name})",
        accuracy,
        f"{interval[0]:.2%} to {interval[1]:.2%}",
        str(seed),
        str(summary["epochs"]),
        f"{summary['seconds'] / 60:.1f} min" + sittings(summary.get("sittings", 1)),
        f"{', '.join(machine['gpus']) or machine['processor']}, {machine['cores']} cores ({machine['instructions']})",
        f"`{summary['command']}`",
    )
    return f"| {' | '.join(cells)} |\n"


def sittings(number: int) -> str:
    """What stands behind the minutes of a run that was stopped and resumed."""
    return f" in {number} sittings" if number > 1 else ""


if __name__ == "__main__":
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(before + BEGIN + table(ROOT / "results") + END + after)
