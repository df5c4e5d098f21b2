"""Record a tested run: `python scripts/record.py RUN NAME` copies what matters of it to results/NAME.

That is recipe.json, metrics.csv, summary.json, the files of evaluations and the pictures, and the weights if they are
smaller than 3 MB; of a cross-validation, crossval.json and each fold's recipe, metrics, summary and predictions. Run
`python scripts/results_table.py` and `python scripts/ledger.py` afterwards.
"""

import argparse
import json
import shlex
import shutil
import sys
from pathlib import Path

from cifar.runs import run_state

RESULTS = Path(__file__).parent.parent / "results"
FILES = (
    "recipe.json", "metrics.csv", "summary.json", "evaluation.json", "predictions.npz",
    "curves.png", "confusion.png", "reliability.png", "mistakes.png",
)  # fmt: skip
OPTIONAL_FILES = (
    "references*.json", "corruptions*.json", "corruptions*.png", "export.json", "evaluation-*.json",
    "predictions-*.npz",
)  # fmt: skip
FOLD_FILES = ("recipe.json", "metrics.csv", "summary.json", "evaluation.json", "predictions.npz")
MAX_WEIGHTS_BYTES = 3_000_000


def record(run: Path, target: Path) -> None:
    """Copy a run, or a cross-validation with its folds, in place of what is recorded under that name.

    Raises:
        SystemExit: it is not tested, lacks files, was trained with code that is in no commit, or on other data.
    """
    crossval = run / "crossval.json"
    folds = sorted(run.glob("fold-*")) if crossval.exists() else []
    for folder in folds or [run]:
        check_recordable(folder)
    if missing := [name for name in FILES if not folds and not (run / name).exists()]:
        sys.exit(f"{run} lacks {', '.join(missing)}: `cifar evaluate {run}` writes them.")
    if target.exists():
        shutil.rmtree(target)
    target.mkdir(parents=True)
    for folder in folds:
        copy(folder, target / folder.name, FOLD_FILES)
    optional = tuple(path.name for pattern in OPTIONAL_FILES for path in sorted(run.glob(pattern)))
    copy(run, target, ("recipe.json", "crossval.json") if folds else (*FILES, *optional))
    for path in target.rglob("summary.json"):
        remove_save_folder(path)
    weights = run / "model.safetensors"
    if weights.exists() and weights.stat().st_size < MAX_WEIGHTS_BYTES:
        shutil.copy(weights, target)


def check_recordable(run: Path) -> None:
    """Exit with a sentence if a run must not be recorded."""
    summary = json.loads((run / "summary.json").read_text())
    if (state := run_state(summary)) != "tested":
        sys.exit(f"{run} is {state}, not tested: resume it first.")
    if summary["data"] != "CIFAR-10":
        sys.exit(f"{run} was trained on {summary['data']}.")
    if not summary["commit"] or summary["commit"].endswith("+changes"):
        sys.exit(f"{run} was trained with code that is in no commit ({summary['commit'] or 'no git'}).")


def remove_save_folder(path: Path) -> None:
    """Remove --save-folder from the command in a summary: the folder exists on one machine only."""
    summary = json.loads(path.read_text())
    words = shlex.split(summary["command"])
    for flag in ("-s", "--save-folder"):
        if flag in words:
            del words[words.index(flag) : words.index(flag) + 2]
    path.write_text(json.dumps(summary | {"command": shlex.join(words)}, indent=2) + "\n")


def copy(source: Path, target: Path, names: tuple[str, ...]) -> None:
    """Copy these files, all of which must exist."""
    target.mkdir(exist_ok=True)
    for name in names:
        shutil.copy(source / name, target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    arguments = parser.parse_args()
    record(arguments.run, RESULTS / arguments.name)
