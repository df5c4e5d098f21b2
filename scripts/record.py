"""Put a finished run on record: `python scripts/record.py RUN NAME` copies what matters of it to results/NAME.

recipe.json, metrics.csv, summary.json, what evaluations left and the pictures; the weights where they are under 3 MB;
of a cross-validation crossval.json and each fold's recipe, metrics and summary. Then `python scripts/results_table.py`.
"""

import argparse
import json
import shlex
import shutil
import sys
from pathlib import Path

RESULTS = Path(__file__).parent.parent / "results"
FILES = (
    "recipe.json", "metrics.csv", "summary.json", "evaluation.json", "predictions.npz",
    "curves.png", "confusion.png", "reliability.png", "mistakes.png",
)  # fmt: skip
WHERE_ASKED = ("references.json", "corruptions.json", "corruptions.png", "export.json")
FOLD_FILES = ("recipe.json", "metrics.csv", "summary.json")
LARGEST_WEIGHTS = 3_000_000


def record(run: Path, target: Path) -> None:
    """Copy a run, or a cross-validation with its folds.

    Raises:
        SystemExit: it is not finished or evaluated, was made with uncommitted changes, or is on the sample.
    """
    crossval = run / "crossval.json"
    folds = sorted(run.glob("fold-*")) if crossval.exists() else []
    for folder in folds or [run]:
        refuse_what_cannot_be_trusted(folder)
    if missing := [name for name in FILES if not folds and not (run / name).exists()]:
        sys.exit(f"{run} lacks {', '.join(missing)}: `cifar evaluate {run}` makes them.")
    if target.exists():
        shutil.rmtree(target)
    target.mkdir(parents=True)
    for folder in folds:
        copy(folder, target / folder.name, FOLD_FILES)
    asked = tuple(name for name in WHERE_ASKED if (run / name).exists())
    copy(run, target, ("recipe.json", "crossval.json") if folds else (*FILES, *asked))
    for path in target.rglob("summary.json"):
        forget_folder(path)
    weights = run / "model.safetensors"
    if weights.exists() and weights.stat().st_size < LARGEST_WEIGHTS:
        shutil.copy(weights, target)


def refuse_what_cannot_be_trusted(run: Path) -> None:
    """End with a sentence where a run is no record."""
    summary = json.loads((run / "summary.json").read_text())
    if not summary["finished"] or not summary["test_readings"]:
        sys.exit(f"{run} is not finished.")
    if summary["data"] != "CIFAR-10":
        sys.exit(f"{run} was trained on {summary['data']}.")
    if not summary["commit"] or summary["commit"].endswith("+changes"):
        sys.exit(f"{run} was trained with changes that no commit holds ({summary['commit'] or 'no commit'}).")


def forget_folder(path: Path) -> None:
    """Take the folder that a run was saved to out of the command in its summary: it is nobody else's."""
    summary = json.loads(path.read_text())
    words = shlex.split(summary["command"])
    for flag in ("-s", "--save-folder"):
        if flag in words:
            del words[words.index(flag) : words.index(flag) + 2]
    path.write_text(json.dumps(summary | {"command": shlex.join(words)}, indent=2) + "\n")


def copy(source: Path, target: Path, names: tuple[str, ...]) -> None:
    """Copy these files, each of which must be there."""
    target.mkdir(exist_ok=True)
    for name in names:
        shutil.copy(source / name, target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    arguments = parser.parse_args()
    record(arguments.run, RESULTS / arguments.name)
