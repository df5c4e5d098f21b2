"""Time to an accuracy: recipes in turn, each run a process of its own, timed from its start to its written result.

    python benchmarks/speed_runs.py results/speednet speednet=5 speednet-reference=2    # let nothing else run

Runs every recipe with seeds 0, 1, …, spread over one sitting, and leaves in the folder recipe.json, metrics.csv and
summary.json of each, runs.json (seconds of the whole process) and table.json (means over seeds, and the ratio to
speednet-reference). A run that is in runs.json is not run again: after a stop the same command goes on.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cifar.evaluation.metrics import mean_interval
from cifar.files import write_json

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = "speednet-reference"
FILES = ("recipe.json", "metrics.csv", "summary.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("recipes", nargs="+", metavar="RECIPE=SEEDS", type=recipe_and_seeds)
    parser.add_argument("--data", default="", help="as of cifar train")
    parser.add_argument("--set", action="append", default=[], dest="settings", help="as of cifar train")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    record = arguments.folder / "runs.json"
    rows: list[dict[str, Any]] = json.loads(record.read_text()) if record.exists() else []
    flags = [*(["--data", arguments.data] if arguments.data else []), *(f"--set={each}" for each in arguments.settings)]
    for recipe, seed in spread(dict(arguments.recipes)):
        if not any((row["recipe"], row["seed"]) == (recipe, seed) for row in rows):
            rows.append(run(recipe, seed, flags, record=arguments.folder))
            write_json(record, rows)
            print(f"{recipe} seed {seed}: {rows[-1]['test_accuracy']:.2%}, {rows[-1]['seconds']:.0f} s", flush=True)
    whole = table(rows, main=arguments.recipes[0][0]) | where(arguments.folder, rows)
    write_json(arguments.folder / "table.json", whole)


def recipe_and_seeds(text: str) -> tuple[str, int]:
    """ "speednet=5" as its two parts."""
    recipe, _, number = text.partition("=")
    return recipe, int(number)


def spread(seeds: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Recipes with their seeds in turn, those of fewer seeds spread over the whole."""
    turns = [((seed + 0.5) / number, name, seed) for name, number in seeds.items() for seed in range(number)]
    for _, name, seed in sorted(turns):
        yield name, seed


def run(recipe: str, seed: int, flags: Sequence[str], *, record: Path) -> dict[str, Any]:
    """One whole process, its records copied; raises CalledProcessError where it fails."""
    name = f"{recipe}-{seed}"
    command = [sys.executable, ROOT / "train.py", "-m", recipe, "--seed", str(seed), "-s", name, *flags]
    with tempfile.TemporaryDirectory() as folder:
        started, began = datetime.now(UTC), time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
        (record / name).mkdir(exist_ok=True)
        for file in FILES:
            shutil.copy(Path(folder, name, file), record / name)
    summary = json.loads((record / name / "summary.json").read_text())
    return {
        "recipe": recipe,
        "seed": seed,
        "test_accuracy": summary["test_accuracy"],
        "seconds": round(seconds, 2),
        "training_seconds": summary["seconds"],
        "started": started.isoformat(timespec="seconds"),
        "commit": summary["commit"],
    }


def table(rows: Sequence[Mapping[str, Any]], *, main: str) -> dict[str, Any]:
    """The figures of every recipe, those of the main one beside the reference's at the top; times are means."""
    names = sorted({row["recipe"] for row in rows})
    recipes = {name: figures([row for row in rows if row["recipe"] == name]) for name in names}
    reference = recipes.get(REFERENCE)
    for one in recipes.values():
        one["ratio"] = one["seconds"] / reference["seconds"] if reference else None
    return recipes[main] | {
        "recipe": main,
        "reference_accuracy": reference["mean_accuracy"] if reference else None,
        "reference_seconds": reference["seconds"] if reference else None,
        "reference_seeds": reference["seeds"] if reference else None,
        "recipes": recipes,
    }


def where(folder: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The machine and the versions of the runs, and every recipe's command; of the first run of each."""
    summaries = {
        row["recipe"]: json.loads((folder / f"{row['recipe']}-{row['seed']}" / "summary.json").read_text())
        for row in reversed(rows)
    }
    first = summaries[rows[0]["recipe"]]
    commands = {name: f"cifar train -m {name}" for name in summaries}
    return {"machine": first["machine"], "versions": first["versions"], "commands": commands}


def figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean, standard deviation and Student's 95 % interval of the mean over seeds; None where there is one seed."""
    accuracies = [row["test_accuracy"] for row in rows]
    mean, std, interval = mean_interval(accuracies) if len(rows) > 1 else (accuracies[0], None, None)
    return {
        "mean_accuracy": mean,
        "std": std,
        "interval": list(interval) if interval else None,
        "seeds": len(rows),
        "accuracies": accuracies,
        "seconds": sum(row["seconds"] for row in rows) / len(rows),
        "lowest_seconds": min(row["seconds"] for row in rows),
        "highest_seconds": max(row["seconds"] for row in rows),
    }


if __name__ == "__main__":
    main()
