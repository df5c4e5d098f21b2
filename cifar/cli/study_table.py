"""What a study shows at the terminal: its trials as they begin and end, the table of all, the result."""

import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from cifar.cli import display

LEFT = ("waiting", "running", "stopped")  # states of trials that are not at their end


def say_trial(number: int, trials: int, values: Mapping[str, Any], run: Path) -> None:
    """Say which trial begins, or is resumed.

    Args:
        number: of the trial, from 1.
        trials: how many there are.
        values: of the fields that vary.
        run: its folder.
    """
    display.say(f"trial {number} of {trials}: {as_words(values)}; {run}")


def as_words(values: Mapping[str, Any]) -> str:
    """Fields with their values in a few characters each."""
    return " ".join(f"{name}={shortened(value)}" for name, value in values.items())


def shortened(value: object) -> str:
    """A value of a field in a few characters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def result_sentence(result: Mapping[str, Any]) -> str:
    """What came of a trial, in a line; result: of `train_next`."""
    if result["state"] == "failed":
        return f"trial {result['trial']} failed: {result['reason']}"
    if result["state"] == "pruned":
        return f"trial {result['trial']} ends early: others were better after as many epochs"
    return f"trial {result['trial']}: validation accuracy {result['accuracy']:.2%}"


def show_study(study: Mapping[str, Any]) -> None:
    """Print the table of a study, then its result; study: as of `describe_study`."""
    from cifar.cli.compare import show_table

    names = list(study["space"])
    heading = ("trial", "state", *names, "epoch", "validation", "95 % interval", "test", "left", "where")
    rows = [heading, *(cells_of(row, names) for row in study["rows"])]
    used = [column for column in range(len(heading)) if column < 2 or any(row[column] for row in rows[1:])]
    show_table([[row[column] for column in used] for row in rows], num_names=2)
    for row in study["rows"]:
        if row["reason"]:
            display.result_text(f"trial {row['trial']}: {row['reason']}")
    display.result_text("")
    show_end(study)


def cells_of(row: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    """The line of a trial; a cell of what is not known is empty.

    Args:
        row: as of `describe_trial`.
        names: of the fields that vary.
    """
    validation, test, worker = row["validation_accuracy"], row["test_accuracy"], row["worker"]
    where = ""
    if worker:
        since = datetime.fromisoformat(worker["since"]).astimezone()
        where = f"{worker['host']}, process {worker['pid']}, since {since:%d %b %H:%M}"
        where = where if row["state"] == "running" else f"left by {where}"
    return (
        str(row["trial"]),
        row["state"],
        *(shortened(row["values"][name]) if name in row["values"] else "" for name in names),
        f"{row['epoch']}/{row['epochs']}" if row["epoch"] else "",
        "" if validation is None else f"{validation:.2%}",
        display.interval(row["validation_interval"]) if row["validation_interval"] else "",
        "" if test is None else f"{test:.2%}",
        "" if row["seconds_left"] is None else display.clock(row["seconds_left"]),
        where,
    )


def show_end(study: Mapping[str, Any]) -> None:
    """Print how far a study is and its result, and say what to do now; study: as of `describe_study`."""
    states = [row["state"] for row in study["rows"]]
    counts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    left = "" if study["seconds_left"] is None else f"; about {display.clock(study['seconds_left'])} left"
    display.result_text(f"{study['trials']} trials: {', '.join(counts)}{left}")
    path = shlex.quote(study["folder"])
    if any(state in ("waiting", "stopped") for state in states):
        display.say(f"cifar sweep work {path} goes on.")
    if study["kind"] == "search":
        show_best(study)
        return
    for split, spread in study["result"].items():
        if spread:
            display.result_text(spread_line(study, split, spread))
    if not any(state in LEFT for state in states):
        display.say("next:")
        display.say(f"  cifar report {path}")
        display.say(f"  cifar compare {path} OTHER")


def spread_line(study: Mapping[str, Any], split: str, spread: Mapping[str, Any]) -> str:
    """Mean, standard deviation and interval over the seeds or folds, in a line.

    Args:
        study: as of `describe_study`.
        split: validation or test.
        spread: its figures.
    """
    prefix, number = "SAMPLE OF CIFAR-10: " * (study["data"] == "sample"), len(spread["accuracies"])
    if number == 1:
        return f"{prefix}{split}: {spread['mean']:.2%}, one of {study['trials']} {study['kind']} yet"
    of = f"{number} {study['kind']}" if number == study["trials"] else f"{number} of {study['trials']} {study['kind']}"
    over_images = study["kind"] == "seeds" and split == "test"
    interval = "95 % interval over seeds and images" if over_images else f"Student's interval over the {study['kind']}"
    return (
        f"{prefix}{split}: mean of {of} {spread['mean']:.2%}, standard deviation {100 * spread['std']:.2f} points, "
        f"{interval} {display.interval(spread['interval'])}"
    )


def show_best(study: Mapping[str, Any]) -> None:
    """Print the best trial of a search and say what to do with it; study: as of `describe_study`."""
    best = study["best"]
    if not best:
        return
    prefix = "SAMPLE OF CIFAR-10: " * (study["data"] == "sample")
    display.result_text(
        f"{prefix}best: trial {best['trial']}, {as_words(best['values'])}, validation accuracy "
        f"{best['validation_accuracy']:.2%} (chosen on these images, so expect less of a new run)"
    )
    if best["test_accuracy"] is not None:
        display.result_text(
            f"{prefix}test accuracy of its run {best['test_accuracy']:.2%}, 95 % interval "
            f"{display.interval(best['test_interval'])}"
        )
    if any(row["state"] in LEFT for row in study["rows"]):
        return
    display.say("next, the same recipe with several seeds:")
    display.say(f"  {study['next']}")
