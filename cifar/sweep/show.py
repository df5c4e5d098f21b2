"""What became of a study: every trial with its state and accuracy, and the result of the whole."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from cifar.errors import InputError, WorldError
from cifar.evaluation.comparison import compare_recipes
from cifar.evaluation.intervals import mean_fraction_interval, wilson_interval
from cifar.reporting.records import read_evaluated_runs
from cifar.runs import METRICS, RECIPE, SUMMARY, held_queue, is_run, read_json, read_metrics
from cifar.sweep.queue import REASON, SAME_AS, WORKER, Queue, is_left
from cifar.sweep.space import name_of, recipe_of
from cifar.sweep.storage import patiently

STATES = {
    TrialState.WAITING: "waiting",
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


def describe_study(queue: Queue) -> dict[str, Any]:
    """Every trial of a study and the result of the whole, JSON-ready.

    Args:
        queue: of the study.

    Returns:
        of study.json kind, trials and data; rows, a trial each; seconds_left, None where nothing tells; and by its kind
        result (validation and test: mean, standard deviation and interval) or best (the row of the best trial).
    """

    def states() -> list[tuple[FrozenTrial, str]]:
        with held_queue(queue.folder):
            trials = [trial for trial in queue.study.get_trials(deepcopy=False) if SAME_AS not in trial.user_attrs]
            return [(trial, state_of(queue, trial)) for trial in trials]

    record = queue.record
    states_now = patiently(states, url=record["storage"], say=queue.say)
    rows = [{"trial": number} | describe_trial(queue, *each) for number, each in enumerate(states_now, 1)]
    done = [row for row in rows if row["state"] == "done"]
    study = {name: record[name] for name in ("kind", "trials", "data", "space")}
    study |= {"folder": str(queue.folder), "rows": rows, "seconds_left": seconds_left(rows)}
    if record["kind"] == "search":
        best = max(done, key=lambda row: (row["validation_accuracy"], -row["trial"]), default=None)
        return study | {"best": best, "next": next_command(queue, best) if best else None}
    result = {split: spread_of(done, split) for split in ("validation", "test")}
    if record["kind"] == "seeds" and len(done) > 1:
        result["test"] = spread_over_images([queue.folder / row["run"] for row in done])
    return study | {"result": result}


def state_of(queue: Queue, trial: FrozenTrial) -> str:
    """waiting, running, stopped (without a worker), done, pruned or failed; the queue is held."""
    if trial.state == TrialState.RUNNING:
        return "stopped" if is_left(queue, trial) else "running"
    return STATES[trial.state]


def describe_trial(queue: Queue, trial: FrozenTrial, state: str) -> dict[str, Any]:
    """A row of a study: what is known of a trial, from the queue and from its run folder."""
    record = queue.record
    drawn = trial.params or trial.system_attrs.get("fixed_params", {})
    values = {name: drawn[name] for name in record["space"] if name in drawn}
    row: dict[str, Any] = {
        "state": state, "values": values, "run": None, "epoch": 0,
        "epochs": record["recipe"]["epochs"], "validation_accuracy": None, "validation_interval": None,
        "test_accuracy": None, "test_interval": None, "seconds": None, "seconds_left": None,
        "worker": trial.user_attrs.get(WORKER) if state in ("running", "stopped") else None,
        "reason": trial.user_attrs.get(REASON, ""),
    }  # fmt: skip
    if state == "waiting" or len(values) < len(record["space"]):
        return row
    try:
        folder = queue.folder / name_of(record, values)
        row["epochs"] = recipe_of(record, values).epochs
    except InputError:  # values that exclude each other; the reason says so
        return row
    if is_run(folder):
        row |= {"run": folder.name} | progress_of(folder)
    if state == "running" and row["epoch"]:
        row["seconds_left"] = row["seconds"] / row["epoch"] * (row["epochs"] - row["epoch"])
    return row


def progress_of(folder: Path, *, attempts: int = 3) -> dict[str, Any]:
    """How far a run is: epoch, seconds, and its accuracies with their intervals.

    Args:
        folder: of the run, whose files another process may be replacing, more than once while one is verified.
        attempts: to read them, before they are damaged.

    Raises:
        WorldError: they are.
    """
    try:
        return read_progress(folder)
    except WorldError:
        if attempts == 1:
            raise
        return progress_of(folder, attempts=attempts - 1)


def read_progress(folder: Path) -> dict[str, Any]:
    """See `progress_of`."""
    summary = read_json(folder / SUMMARY)
    rows = read_metrics(folder) if (folder / METRICS).exists() else []
    accuracy = summary["validation_accuracy"]
    if accuracy is None and rows:
        accuracies = [row["validation_accuracy"] for row in rows]
        accuracy = max(accuracies) if accuracies[0] == accuracies[0] else None  # NaN without validation images
    interval = None
    if accuracy is not None:
        number = summary["num_validation"]
        interval = list(wilson_interval(round(accuracy * number), number))
    return {
        "epoch": int(rows[-1]["epoch"]) if rows else 0,
        "seconds": rows[-1]["seconds"] if rows else None,
        "validation_accuracy": accuracy,
        "validation_interval": interval,
        "test_accuracy": summary["test_accuracy"],
        "test_interval": summary["test_interval"],
    }


def spread_of(rows: Sequence[Mapping[str, Any]], split: str) -> dict[str, Any] | None:
    """Mean, standard deviation and Student's interval of the accuracies of finished runs; None where there are none.

    Args:
        rows: as of `describe_trial`.
        split: validation or test.
    """
    accuracies = [row[f"{split}_accuracy"] for row in rows if row[f"{split}_accuracy"] is not None]
    if not accuracies:
        return None
    mean, std, interval = mean_fraction_interval(accuracies)
    several = len(accuracies) > 1
    return {
        "accuracies": accuracies, "mean": mean, "std": std if several else None,
        "interval": list(interval) if several else None,
    }  # fmt: skip


def spread_over_images(runs: Sequence[Path]) -> dict[str, Any]:
    """Mean and standard deviation of tested seeds, and the interval over seeds and images, as `cifar compare` has it.

    Args:
        runs: two or more, in the order of their seeds.
    """
    evaluated = read_evaluated_runs(runs)
    recipe = compare_recipes(evaluated, seed=0)["recipes"][0]
    accuracies = [float(run.hits.mean()) for run in evaluated]
    return {"accuracies": accuracies} | {name: recipe[name] for name in ("mean", "std", "interval")}


def seconds_left(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """How long a study will take with the workers that it has; None where none works or no epoch is done yet."""
    running = [row for row in rows if row["state"] == "running"]
    speeds: list[float] = [row["seconds"] / row["epoch"] for row in rows if row["epoch"]]
    if not running or not speeds:
        return None
    epochs: int = sum(row["epochs"] - row["epoch"] for row in rows if row["state"] in ("running", "stopped", "waiting"))
    return epochs * sum(speeds) / len(speeds) / len(running)


def next_command(queue: Queue, best: Mapping[str, Any]) -> str:
    """The command that trains the best recipe of a search with several seeds."""
    recipe = queue.folder / best["run"] / RECIPE
    study = queue.folder.with_name(f"{queue.folder.name}-best")
    data = queue.record["data"]
    given = f" --data {shlex.quote(data)}" if data else ""
    return f"cifar sweep new {shlex.quote(str(study))} --recipe {shlex.quote(str(recipe))} --seeds 5{given}"


def chosen_run(queue: Queue, study: Mapping[str, Any]) -> Path:
    """The run of the best trial of a search, which may be evaluated on the test set now.

    Args:
        queue: of the study.
        study: what `describe_study` gave.

    Raises:
        InputError: not a search, or not at its end.
    """
    if study["kind"] != "search":
        raise InputError(f"--test is for a search: the {study['kind']} of a study are tested as they are trained.")
    left = [row["trial"] for row in study["rows"] if row["state"] in ("waiting", "running", "stopped")]
    if left or not study["best"]:
        path = shlex.quote(str(queue.folder))
        what = f"{len(left)} of {study['trials']} trials are not at their end" if left else "no trial came to its end"
        raise InputError(f"Nothing is chosen yet: {what}. Go on with `cifar sweep work {path}`.")
    return queue.folder / str(study["best"]["run"])
