"""Training on a GPU: is it right, how fast is it, and how much of the time does the GPU compute?

    python benchmarks/gpu.py                        # at most 8 minutes; results/gpu/table.json
    python benchmarks/gpu.py --author airbench.py   # also the record's own script, from a file that you have
    python benchmarks/gpu.py --cpu                  # all of it at tiny size without a GPU, to find typing errors

Checks that captured steps are the steps and that a resumed training is an unbroken one (both with --deterministic).
Then trains by the recipes as a person does, each in a process of its own: images/s are those of the last epoch, seconds
to the result from the start of the process until its result is written. Then the fraction of an epoch in which the GPU
computes, by PyTorch's profiler. What time is left goes to further seeds of speednet. The table is written after every
row, and printed last; the exit code is 1 where a check failed or a run ended with an error.
"""

import argparse
import contextlib
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cifar.data.cifar10 import cut, load, open_dataset
from cifar.data.split import Split
from cifar.evaluation.intervals import mean_interval
from cifar.files import write_json
from cifar.machine import describe_commit, describe_machine, describe_versions
from cifar.recipes import Recipe, recipe_for, with_settings
from cifar.training.display import Display
from cifar.training.loop import train

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 480  # for all; gpu.sh ends what takes longer
RESERVE = 25  # seconds that a further seed may take
MOST_SEEDS = 12

# What is trained: flags of train.py, and the goal of the row.
SPEEDS: dict[str, tuple[tuple[str, ...], float]] = {
    "cnn": (("-m", "cnn", "-e", "6"), 250_000),
    "resnet": (("-m", "resnet", "-e", "4", "-b", "128", "-l", "0.1"), 60_000),
    "vit": (("-m", "vit", "-e", "4"), 40_000),
    "resnet18": (("-m", "resnet18", "-e", "3", "-b", "128", "--set", "precision=bf16"), 25_000),
}
TINY = ("--data", "sample", "-e", "1")  # of all of them, without a GPU


@dataclass(frozen=True)
class Way:
    """Another way to train, to know what it costs: further flags of train.py, or another program in its place."""

    flags: tuple[str, ...] = ()
    program: tuple[str, ...] = (str(ROOT / "train.py"),)


FIRST_CHOICE = """
import torch
from cifar.training import loop

def prepare_gpu(*, deterministic, prepare=loop.prepare_gpu):
    prepare(deterministic=deterministic)
    torch.backends.cudnn.benchmark = False

loop.prepare_gpu = prepare_gpu
from cifar.__main__ import train_main
train_main()
"""
WAYS = {
    "deterministic": Way(("--deterministic",)),
    "steps one by one": Way(("--no-capture",)),
    "cuDNN's first choice": Way(program=("-c", FIRST_CHOICE)),
}
SHARES = ("cnn", "resnet", "vit", "speednet")
GOAL_SHARE, GOAL_PROCESS, GOAL_ACCURACY = 0.9, 10.0, 0.94


@dataclass
class Table:
    """Rows so far, in a file that is written whole after each of them."""

    path: Path
    device: str
    start: float = field(default_factory=time.perf_counter)
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def add(self, name: str, figure: float | bool | None, unit: str, *, goal: Any = None, **more: Any) -> None:
        """Write a row down, and show it."""
        self.rows.append({"name": name, "figure": figure, "unit": unit, "goal": goal, **more})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        record = {"device": self.device, "card": card(self.device), "commit": describe_commit(), "rows": self.rows}
        record |= {"machine": describe_machine(), "versions": describe_versions(), "seconds": round(self.seconds, 1)}
        write_json(self.path, record)
        print(f"{self.seconds:4.0f} s  {line(self.rows[-1])}", flush=True)

    def attempt(self, name: str, measure: Callable[[], None]) -> None:
        """Measure something; what fails is a row that says so, and the rest goes on."""
        try:
            measure()
        except Exception as error:
            traceback.print_exc()
            self.add(name, None, "", failed=f"{type(error).__name__}: {error}"[-500:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="tiny, and without a GPU")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "gpu" / "table.json")
    parser.add_argument("--author", type=Path, help="the record's own script, airbench94_muon.py")
    parser.add_argument("--only", nargs="+", default=[], help="recipes; default all")
    arguments = parser.parse_args()
    table, runs = Table(arguments.output, "cpu" if arguments.cpu else "cuda"), list[dict[str, Any]]()
    with contextlib.suppress(KeyboardInterrupt):  # gpu.sh ends what takes too long; what is measured counts
        measure_all(table, runs, arguments)
    if runs:
        add_seeds(table, runs)
    print("\n" + "\n".join(map(line, table.rows)))
    return int(any(row.get("failed") or row["figure"] is False for row in table.rows))


def measure_all(table: Table, runs: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """Measure every row; those of speednet's seeds are left to `add_seeds`.

    Args:
        table: gets the rows.
        runs: gets the figures of speednet's seeds.
        arguments: of the command line.
    """
    tiny = arguments.cpu
    dataset = open_dataset("sample" if tiny else "")
    images = load(dataset, "train")

    def wanted(names: Iterable[str]) -> list[str]:
        return [name for name in names if not arguments.only or name in arguments.only]

    for name in wanted(("cnn", "speednet")):
        table.attempt(f"{name}: captured", partial(check_captured, table, name, images))
        table.attempt(f"{name}: resumed", partial(check_resumed, table, name, images))
    for name in wanted(SPEEDS):
        flags, goal = SPEEDS[name]
        table.attempt(name, partial(measure_speed, table, name, [*flags, *(TINY if tiny else ())], goal=goal))
    for name in wanted(["speednet"]):
        table.attempt(name, partial(add_run, runs, speednet(0, tiny=tiny), table.device))
    for name in wanted(["speednet-reference"]):
        flags = ("-m", name, *(TINY if tiny else ("--compile",)))
        table.attempt(name, partial(add_process, table, f"{name}, compiled", flags))
    for name in wanted(["speednet"]):
        for what, way in WAYS.items():
            more = [*speednet(0, tiny=tiny), *way.flags]
            table.attempt(what, partial(add_process, table, f"{name}, {what}", more, way.program))
    if arguments.author:
        author = partial(run_author, table, arguments.author, images, load(dataset, "test"))
        table.attempt("the author's script", author)
    for name in wanted(SHARES):
        table.attempt(f"{name}: share", partial(measure_share, table, name, images, tiny=tiny))
    while runs and len(runs) < (2 if tiny else MOST_SEEDS) and table.seconds < SECONDS - RESERVE:
        before = len(runs)
        table.attempt("speednet", partial(add_run, runs, speednet(before, tiny=tiny), table.device))
        if len(runs) == before:
            break


def speednet(seed: int, *, tiny: bool) -> list[str]:
    """The flags of a run of speednet."""
    short = [*TINY[:-1], "2", "--set", "early_epochs=1"] if tiny else []
    return ["-m", "speednet", "--seed", str(seed), *short]


def add_run(runs: list[dict[str, Any]], flags: Sequence[str], device: str) -> None:
    """Run a process, and keep its figures with the others'."""
    runs.append(run_process(flags, device))


def line(row: Mapping[str, Any]) -> str:
    """A row of the table as a person reads it."""
    figure = row["figure"]
    shown = {True: "yes", False: "NO", None: "not measured"}.get(figure) if not isinstance(figure, float) else None
    shown = shown or (f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}")
    goal = f"  (goal {row['goal']:,})" if row["goal"] is not None else ""
    more = {name: value for name, value in row.items() if name not in ("name", "figure", "unit", "goal", "timing")}
    return f"{row['name']:<34} {shown} {row['unit']}{goal}  {json.dumps(more) if more else ''}".rstrip()


def card(device: str) -> str:
    """The GPU's name."""
    return torch.cuda.get_device_name() if device == "cuda" else ""


# Checks


def small(name: str) -> Recipe:
    """A recipe of 50 steps in two epochs, over a change of image size and of what is frozen where it has them."""
    recipe = recipe_for(name)
    settings = ["epochs=2", "validation_fraction=0.1"]
    settings += ["early_epochs=1"] if recipe.augment.early_epochs else []
    settings += ["whitening_epochs=1"] if recipe.optimiser.whitening_epochs else []
    return with_settings(recipe, settings)


def fifty_steps(recipe: Recipe, images: Split) -> tuple[Recipe, Split, Split]:
    """The recipe with so many images that two epochs are 50 steps, or all there are in smaller batches."""
    batch_size = min(recipe.batch_size, len(images) // 30)
    chosen = images.select(torch.arange(min(len(images), 28 * batch_size)))
    recipe = with_settings(recipe, [f"batch_size={batch_size}"])
    return recipe, *cut(chosen, recipe.holdout)


class StopAfter(Display):
    """Stops a training after some steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def should_stop(self) -> bool:
        self.steps -= 1
        return self.steps == 0


def trained(name: str, images: Split, folder: Path, device: str, **options: Any) -> tuple[dict[str, torch.Tensor], str]:
    """The weights after 50 steps, and the SHA-256 of their file."""
    recipe, training, validation = fifty_steps(small(name), images)
    folder.mkdir(exist_ok=True)
    state = train(recipe, training, validation, folder=folder, device=device, deterministic=True, **options)
    weights = {key: value.detach().cpu() for key, value in state.model.state_dict().items()}
    digest = hashlib.sha256(b"".join(value.contiguous().numpy().tobytes() for value in weights.values())).hexdigest()
    return weights, digest


def check_captured(table: Table, name: str, images: Split) -> None:
    """Replayed steps against the same one by one."""
    with tempfile.TemporaryDirectory() as folder:
        replayed, digest = trained(name, images, Path(folder, "replayed"), table.device)
        one_by_one, other = trained(name, images, Path(folder, "eager"), table.device, capture=False)
    apart = [
        ((replayed[key] - value).norm() / (value.norm() + 1e-12)).item()
        for key, value in one_by_one.items()
        if value.is_floating_point()
    ]
    same = max(apart) < 0.02
    table.add(f"{name}: captured steps are the steps", same, "", equal_bits=digest == other, furthest=max(apart))


def check_resumed(table: Table, name: str, images: Split) -> None:
    """A training that is stopped within its second epoch and resumed, against one that is not."""
    with tempfile.TemporaryDirectory() as folder:
        _, whole = trained(name, images, Path(folder, "whole"), table.device)
        trained(name, images, Path(folder, "broken"), table.device, display=StopAfter(35))
        _, resumed = trained(name, images, Path(folder, "broken"), table.device, resume=True)
    table.add(f"{name}: resumed, the same bits", whole == resumed, "")


# Speeds


def run_process(flags: Sequence[str], device: str, program: Sequence[str] = Way.program) -> dict[str, Any]:
    """Train as a person does; figures of the run, and the seconds of the whole process.

    Args:
        flags: of train.py.
        device: cpu or cuda.
        program: what Python runs.

    Raises:
        RuntimeError: it failed; says what it printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *program, *flags, "-d", device, "-s", "run"]
        with tempfile.TemporaryFile("w+") as errors:
            start = time.perf_counter()
            with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
                assert process.stdout
                process.stdout.readline()  # printed when the result is written
                to_result = time.perf_counter() - start
                process.wait()
            seconds = time.perf_counter() - start
            errors.seek(0)
            said = errors.read()
        if process.returncode:
            raise RuntimeError(said[-1000:])
        summary = json.loads(Path(folder, "run", "summary.json").read_text())
        rows = Path(folder, "run", "metrics.csv").read_text().splitlines()
    metrics = [dict(zip(rows[0].split(","), row.split(","), strict=True)) for row in rows[1:]]
    return {
        "test_accuracy": summary["test_accuracy"],
        "images_per_second": float(metrics[-1]["images_per_second"]),
        "training_seconds": summary["seconds"],
        "timing": summary["timing"],
        "precision": summary["precision"],
        "seconds_to_result": round(to_result, 2),
        "process_seconds": round(seconds, 2),
        "said": [one for one in said.splitlines() if any(word in one.lower() for word in ("captured", "warn"))],
    }


def measure_speed(table: Table, name: str, flags: Sequence[str], *, goal: float) -> None:
    """Images/s of a recipe in its last epoch."""
    run = run_process(flags, table.device)
    table.add(f"{name}: training", run.pop("images_per_second"), "images/s", goal=goal, **run)


def add_process(table: Table, name: str, flags: Sequence[str], program: Sequence[str] = Way.program) -> None:
    """A whole process."""
    run = run_process(flags, table.device, program)
    table.add(f"{name}: whole process", run.pop("seconds_to_result"), "s", seeds=1, **run)


def add_seeds(table: Table, runs: Sequence[Mapping[str, Any]]) -> None:
    """Accuracy and seconds of speednet over its seeds."""
    accuracies = [run["test_accuracy"] for run in runs]
    evaluations = [round(run["training_seconds"] + run["timing"]["evaluation"], 3) for run in runs]
    spread: dict[str, Any] = {"seeds": len(runs)}
    if len(runs) > 1:
        _, deviation, interval = mean_interval(accuracies)
        spread |= {"standard_deviation": deviation, "interval": interval}
    seconds = [run["seconds_to_result"] for run in runs]
    whole = {"first": seconds[0], "each": seconds, "timing": [run["timing"] for run in runs], "said": runs[-1]["said"]}
    table.add("speednet: test accuracy", statistics.fmean(accuracies), "", goal=GOAL_ACCURACY, **spread)
    table.add("speednet: whole process", statistics.fmean(seconds), "s", goal=GOAL_PROCESS, seeds=len(runs), **whole)
    table.add("speednet: training, evaluation", statistics.fmean(evaluations), "s", seeds=len(runs), each=evaluations)


def run_author(table: Table, script: Path, training: Split, test: Split) -> None:
    """The record's own script, on our data in its format; its last lines are kept as it prints them."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "cifar10").mkdir()
        for name, split in (("train", training), ("test", test)):
            values = {"images": split.images.permute(0, 2, 3, 1).contiguous(), "labels": split.labels, "classes": []}
            torch.save(values, Path(folder, "cifar10", f"{name}.pt"))
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, script.resolve()], cwd=folder, capture_output=True, text=True, timeout=150
        )
        seconds = time.perf_counter() - start
    said = (done.stdout + done.stderr).splitlines()[-12:]
    table.add("the author's script: whole process", seconds, "s", exit_code=done.returncode, said=said)


# The share of an epoch in which the GPU computes


class Profiled(Display):
    """Profiles the second epoch of a training."""

    def __init__(self, device: str) -> None:
        kinds = [torch.profiler.ProfilerActivity.CUDA if device == "cuda" else torch.profiler.ProfilerActivity.CPU]
        self.profiler = torch.profiler.profile(activities=kinds)
        self.epochs, self.start, self.seconds = 0, 0.0, 0.0

    def end_epoch(self, row: Mapping[str, float], *, is_best: bool) -> None:
        del row, is_best
        self.epochs += 1
        if self.epochs == 1:
            self.profiler.__enter__()
            self.start = time.perf_counter()
        elif self.epochs == 2:
            self.seconds = time.perf_counter() - self.start
            self.profiler.__exit__(None, None, None)


def measure_share(table: Table, name: str, images: Split, *, tiny: bool) -> None:
    """The fraction of an epoch, its validation included, in which at least one kernel runs."""
    settings = ["epochs=2", *(["early_epochs=1"] if recipe_for(name).augment.early_epochs else [])]
    recipe = with_settings(recipe_for(name), [*settings, *(["batch_size=100"] if tiny else [])])
    part = images.select(torch.arange(200)) if tiny else images
    display = Profiled(table.device)
    with tempfile.TemporaryDirectory() as folder:
        train(recipe, *cut(part, recipe.holdout), folder=Path(folder), device=table.device, display=display)
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in display.profiler.events() or ()
        if tiny or event.device_type == torch.autograd.DeviceType.CUDA
    ]
    share = covered(spans) / 1e6 / display.seconds
    steps = len(part) * recipe.holdout.training_fraction / recipe.batch_size
    more = {"kernels_a_step": round(len(spans) / steps), "epoch_seconds": round(display.seconds, 3)}
    table.add(f"{name}: the GPU computes", share, "of an epoch", goal=GOAL_SHARE, **more)


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """The length of a union of intervals."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


if __name__ == "__main__":
    sys.exit(main())
