"""Time to an accuracy: recipes interleaved, each run a process of its own, timed from start to written result.

    python benchmarks/speed_runs.py results/speednet speednet=5 speednet-reference-bf16=2    # let nothing else run

Runs each recipe with seeds 0, 1, …, spread over one session. `speednet-reference` is that recipe in fp32, by PyTorch
alone, compiled; with -eager, -bf16 or -bf16-compiled behind the name in PyTorch's other ways, with -native by our
kernels. The folder gets, in a folder for each kind of CPU, the records and predictions of each run (FILES) and, where
the recipe has TTA, those with one view (ONE_VIEW): they are made after the timed process, and count as a second test
evaluation. Of seed 0 of our own recipes it gets the weights in half precision as well. It also gets runs.json, the
seconds of the whole processes, and table.json: of each kind of CPU, means over seeds and the ratios to the reference in
the fastest of PyTorch's ways and with our kernels. What is in runs.json of this kind of CPU is not run again: after an
interruption the same command continues.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from cifar.data.cifar10 import load, open_dataset
from cifar.evaluation.comparison import compare_recipes
from cifar.evaluation.intervals import mean_interval
from cifar.evaluation.predict import predict
from cifar.files import write_json
from cifar.machine import describe_machine
from cifar.reporting.records import read_evaluated_runs
from cifar.runs import checksum, load_network, read_predictions, run_recipe

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = "speednet-reference"
PYTORCH, BF16 = ("--kernels", "pytorch"), ("--set", "precision=bf16")
# The ways in which the reference is run; the first four are PyTorch's.
WAYS = {
    REFERENCE: (*PYTORCH, "--compile"),
    f"{REFERENCE}-eager": PYTORCH,
    f"{REFERENCE}-bf16": (*PYTORCH, *BF16),
    f"{REFERENCE}-bf16-compiled": (*PYTORCH, *BF16, "--compile"),
    f"{REFERENCE}-native": (),
}
NATIVE = f"{REFERENCE}-native"
FILES = ("recipe.json", "metrics.csv", "summary.json", "evaluation.json", "predictions.npz")
ONE_VIEW = ("evaluation-test-none.json", "predictions-test-none.npz")


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
    data = ["--data", arguments.data] if arguments.data else []
    settings = [f"--set={each}" for each in arguments.settings]
    here = kind_of_cpu(describe_machine())
    for name, seed in spread(dict(arguments.recipes)):
        if not any((row["recipe"], row["seed"], row["cpu"]) == (name, seed, here) for row in rows):
            rows.append(run(name, seed, settings, data=data, record=arguments.folder / here) | {"cpu": here})
            write_json(record, rows)
            print(f"{name} seed {seed}: {rows[-1]['test_accuracy']:.2%}, {rows[-1]['seconds']:.0f} s", flush=True)
    write_json(arguments.folder / "table.json", table(arguments.folder, rows, main=arguments.recipes[0][0]))


def recipe_and_seeds(text: str) -> tuple[str, int]:
    """Split "speednet=5" into recipe and number of seeds."""
    recipe, _, number = text.partition("=")
    return recipe, int(number)


def spread(seeds: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Recipes with their seeds, interleaved: those with fewer seeds are spread over the whole session."""
    turns = [((seed + 0.5) / number, name, seed) for name, number in seeds.items() for seed in range(number)]
    for _, name, seed in sorted(turns):
        yield name, seed


def kind_of_cpu(machine: Mapping[str, Any]) -> str:
    """What of a machine decides the speed of a run, as the name of a folder: avx512-bf16-family25-model17-2cores."""
    bf16 = ["bf16"] if machine.get("native_bf16") else []  # older records do not have it, nor the model
    model = machine.get("processor_model", "").split()
    return re.sub(
        "[^a-z0-9-]", "", "-".join([machine["instructions"].lower(), *bf16, *model, f"{machine['cores']}cores"])
    )


def command_of(name: str) -> list[str]:
    """The arguments of `cifar` that train by a recipe, or by the reference's in one of the ways."""
    return ["train", "-m", REFERENCE if name in WAYS else name, *WAYS.get(name, ())]


def run(name: str, seed: int, settings: Sequence[str], *, data: Sequence[str], record: Path) -> dict[str, Any]:
    """Time one whole process and keep its records.

    Args:
        name: of a recipe or a way.
        seed: of the run.
        settings: further arguments of train.py.
        data: those that say where the data are.
        record: the folder that keeps the records.

    Raises:
        CalledProcessError: the process failed.
    """
    kept = record / f"{name}-{seed}"
    command = [sys.executable, str(ROOT / "train.py"), *command_of(name)[1:], "--seed", str(seed), "-s", kept.name]
    command += [*data, *settings]
    with tempfile.TemporaryDirectory() as folder:
        started, began = datetime.now(UTC), time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
        files = FILES
        if json.loads(Path(folder, kept.name, "recipe.json").read_text()).get("views", "none") != "none":
            evaluate = [sys.executable, "-m", "cifar", "evaluate", kept.name, "--tta", "none", *data]
            path = os.environ | {"PYTHONPATH": str(ROOT)}  # the package beside train.py
            subprocess.run(evaluate, cwd=folder, check=True, stdout=subprocess.DEVNULL, env=path)
            files += ONE_VIEW
        kept.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copy(Path(folder, kept.name, file), kept)
        if seed == 0 and name not in WAYS:
            keep_weights(Path(folder, kept.name), kept, data=data[-1] if data else "")
    summary = json.loads((kept / "summary.json").read_text())
    return {
        "recipe": name,
        "seed": seed,
        "test_accuracy": summary["test_accuracy"],
        "seconds": round(seconds, 2),
        "training_seconds": summary["seconds"],
        "started": started.isoformat(timespec="seconds"),
        "commit": summary["commit"],
    }


def keep_weights(run: Path, kept: Path, *, data: str) -> None:
    """Keep the weights of a run in half precision, and in its summary how many test predictions that changes.

    Args:
        run: a tested run, whose predictions.npz and the like are kept already.
        kept: the folder for model.safetensors.
        data: as of `open_dataset`.
    """
    tensors = load_file(run / "model.safetensors")
    half = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
    save_file(half, kept / "model.safetensors")
    summary, tta = json.loads((kept / "summary.json").read_text()), run_recipe(kept).tta
    images = load(open_dataset(data), "test").images
    predicted = predict(load_network(kept), images, views=tta.views, below=tta.views_below).argmax(dim=1)
    changed = int((predicted.numpy() != read_predictions(kept)[0].argmax(axis=1)).sum())
    summary["weights"] = f"kept in half precision, which changes {changed} of {len(predicted):,} test predictions"
    write_json(kept / "summary.json", summary)
    evaluation = json.loads((kept / "evaluation.json").read_text())  # whose temperature is for this file now
    write_json(kept / "evaluation.json", evaluation | {"model_sha256": checksum(kept / "model.safetensors")})


def table(folder: Path, rows: Sequence[Mapping[str, Any]], *, main: str) -> dict[str, Any]:
    """The figures of every kind of CPU; those of the kind with most runs of the main recipe are at the top level too.

    Args:
        folder: with the summaries of the runs.
        rows: of the runs.
        main: the recipe whose figures are at the top level.
    """
    kinds = {}
    for kind in dict.fromkeys(row["cpu"] for row in rows):
        runs = [row for row in rows if row["cpu"] == kind]
        summary = json.loads((folder / kind / f"{runs[0]['recipe']}-{runs[0]['seed']}" / "summary.json").read_text())
        kinds[kind] = figures_of_cpu(runs, folder / kind)
        kinds[kind] |= {"machine": summary["machine"], "versions": summary["versions"]}
    first = max(kinds.values(), key=lambda kind: kind["recipes"][main]["seeds"] if main in kind["recipes"] else 0)
    names = dict.fromkeys(row["recipe"] for row in rows)
    commands = {name: " ".join(["cifar", *command_of(name)]) for name in names}
    return first["recipes"][main] | {"recipe": main} | first | {"commands": commands, "cpus": kinds}


def figures_of_cpu(rows: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """The figures of every recipe on one kind of CPU, with their ratios to the reference's times.

    Args:
        rows: of runs on that kind.
        folder: with the folders of these runs.
    """
    names = sorted({row["recipe"] for row in rows})
    recipes = {name: figures([row for row in rows if row["recipe"] == name], folder) for name in names}
    seconds = {name: recipes[name]["seconds"] for name in names}
    best = min(
        (name for name in names if name in WAYS and name != NATIVE), key=lambda name: seconds[name], default=None
    )
    references = {"ratio": REFERENCE, "ratio_to_best_reference": best, "ratio_to_native_reference": NATIVE}
    for name in names:
        for key, reference in references.items():
            recipes[name][key] = seconds[name] / seconds[reference] if reference in seconds else None
    reference = recipes.get(REFERENCE, {})
    return {
        "reference_accuracy": reference.get("mean_accuracy"),
        "reference_seconds": reference.get("seconds"),
        "reference_seeds": reference.get("seeds"),
        "best_reference": best,
        "recipes": recipes,
    }


def figures(rows: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """Mean, standard deviation and 95% interval of the mean (None for a single seed), with one view too, and times.

    The interval is over seeds and images, or Student's over seeds alone, if a run has no predictions, as older ones.

    Args:
        rows: of runs of one recipe on one kind of CPU.
        folder: with the folders of these runs.
    """
    accuracies = [row["test_accuracy"] for row in rows]
    mean, std, interval = mean_interval(accuracies) if len(rows) > 1 else (accuracies[0], None, None)
    kept = [folder / f"{row['recipe']}-{row['seed']}" for row in rows]
    over_images = interval is not None and all((run / "predictions.npz").exists() for run in kept)
    if over_images:
        interval = compare_recipes(read_evaluated_runs(kept), seed=0)["recipes"][0]["interval"]
    one_view = [json.loads((run / ONE_VIEW[0]).read_text())["accuracy"] for run in kept if (run / ONE_VIEW[0]).exists()]
    seconds = [row["seconds"] for row in rows]
    return {
        "mean_accuracy": mean,
        "mean_accuracy_one_view": statistics.fmean(one_view) if len(one_view) == len(rows) else None,
        "std": std,
        "interval": list(interval) if interval else None,
        "interval_over": None if interval is None else "seeds and images" if over_images else "seeds",
        "seeds": len(rows),
        "accuracies": accuracies,
        "seconds": sum(seconds) / len(seconds),
        "lowest_seconds": min(seconds),
        "highest_seconds": max(seconds),
    }


if __name__ == "__main__":
    main()
