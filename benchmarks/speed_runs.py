"""Time to an accuracy: recipes interleaved, each run a process of its own, timed from start to written result.

    python benchmarks/speed_runs.py results/speednet speednet=5 speednet-reference=2    # let nothing else run

Runs each recipe with seeds 0, 1, …, spread over one session, and leaves in the folder recipe.json, metrics.csv and
summary.json of each run, runs.json (seconds of the whole process) and table.json (means over seeds, and the ratio to
speednet-reference). What is in runs.json is not run again: after an interruption the same command continues. If that is
on another machine, accuracies count from every machine, times only from the one that the reference ran on.
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

from cifar.evaluation.intervals import mean_interval
from cifar.files import write_json

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = "speednet-reference"
# The reference is compiled by PyTorch and does without our native kernels.
MACHINE_FLAGS = {REFERENCE: ("--kernels", "pytorch", "--compile")}
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
    rows = [row | {"machine": machine_of(summary_of(arguments.folder, row))} for row in rows]
    result = table(rows, main=arguments.recipes[0][0]) | versions_and_commands(arguments.folder, rows)
    write_json(arguments.folder / "table.json", result)


def recipe_and_seeds(text: str) -> tuple[str, int]:
    """Split "speednet=5" into recipe and number of seeds."""
    recipe, _, number = text.partition("=")
    return recipe, int(number)


def spread(seeds: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Recipes with their seeds, interleaved: those with fewer seeds are spread over the whole session."""
    turns = [((seed + 0.5) / number, name, seed) for name, number in seeds.items() for seed in range(number)]
    for _, name, seed in sorted(turns):
        yield name, seed


def run(recipe: str, seed: int, flags: Sequence[str], *, record: Path) -> dict[str, Any]:
    """Time one whole process and keep its records.

    Args:
        recipe: by name.
        seed: of the run.
        flags: further arguments of train.py.
        record: the folder that keeps the records.

    Raises:
        CalledProcessError: the process failed.
    """
    name = f"{recipe}-{seed}"
    command = [sys.executable, str(ROOT / "train.py"), "-m", recipe, "--seed", str(seed), "-s", name, *flags]
    command += MACHINE_FLAGS.get(recipe, ())
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


def summary_of(folder: Path, row: Mapping[str, Any]) -> dict[str, Any]:
    """The recorded summary of a run."""
    summary: dict[str, Any] = json.loads((folder / f"{row['recipe']}-{row['seed']}" / "summary.json").read_text())
    return summary


def machine_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What of a machine decides the speed of a run; not the memory, which differs by a few bytes from boot to boot."""
    return {key: summary["machine"][key] for key in ("processor", "instructions", "cores", "gpus", "system")}


def table(rows: Sequence[Mapping[str, Any]], *, main: str) -> dict[str, Any]:
    """The figures of every recipe, with those of the main one, and the reference's, at the top level.

    Args:
        rows: of runs, each with its "machine". Accuracies are means over all, times over the runs on the machine of the
            reference (if there is none, of the main recipe's first run).
        main: the recipe whose figures are at the top level.
    """
    names = sorted({row["recipe"] for row in rows})
    machine = next(row["machine"] for name in (REFERENCE, main) for row in rows if row["recipe"] == name)
    recipes = {name: figures([row for row in rows if row["recipe"] == name], machine=machine) for name in names}
    reference = recipes.get(REFERENCE)
    for of_recipe in recipes.values():
        of_recipe["ratio"] = of_recipe["seconds"] / reference["seconds"] if reference and of_recipe["timed"] else None
    return recipes[main] | {
        "recipe": main,
        "reference_accuracy": reference["mean_accuracy"] if reference else None,
        "reference_seconds": reference["seconds"] if reference else None,
        "reference_seeds": reference["seeds"] if reference else None,
        "recipes": recipes,
        "machine": machine,
        "elsewhere": [
            {key: row[key] for key in ("recipe", "seed", "seconds", "machine")}
            for row in rows
            if row["machine"] != machine
        ],
    }


def versions_and_commands(folder: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The versions of the first run, and each recipe's command."""
    names = dict.fromkeys(row["recipe"] for row in rows)
    commands = {name: " ".join(["cifar train -m", name, *MACHINE_FLAGS.get(name, ())]) for name in names}
    return {"versions": summary_of(folder, rows[0])["versions"], "commands": commands}


def figures(rows: Sequence[Mapping[str, Any]], *, machine: Mapping[str, Any]) -> dict[str, Any]:
    """Mean, standard deviation and Student's 95% interval of the mean over seeds; None if there is only one seed.

    Times are of the runs on that machine; None if there are none.
    """
    accuracies = [row["test_accuracy"] for row in rows]
    mean, std, interval = mean_interval(accuracies) if len(rows) > 1 else (accuracies[0], None, None)
    seconds = [row["seconds"] for row in rows if row["machine"] == machine]
    return {
        "mean_accuracy": mean,
        "std": std,
        "interval": list(interval) if interval else None,
        "seeds": len(rows),
        "accuracies": accuracies,
        "timed": len(seconds),
        "seconds": sum(seconds) / len(seconds) if seconds else None,
        "lowest_seconds": min(seconds, default=None),
        "highest_seconds": max(seconds, default=None),
    }


if __name__ == "__main__":
    main()
