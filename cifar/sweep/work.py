"""A worker: takes a trial of a study, trains it in its own run folder, says what came of it."""

import os
import platform
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optuna.trial import Trial, TrialState

from cifar.data.cifar10 import Dataset
from cifar.errors import Diverged, InputError, WorldError
from cifar.machine import is_out_of_memory
from cifar.pipeline.job import Job, Stopped, check_data, job_to_resume
from cifar.pipeline.run import run_one, train_run
from cifar.pipeline.start import prepared
from cifar.recipes import Recipe
from cifar.runs import METRICS, SUMMARY, is_run, read_json, read_metrics, run_name, run_state, study_runs
from cifar.sweep.queue import Queue, end, position, taken_trial, trial_of
from cifar.sweep.space import recipe_of
from cifar.sweep.storage import DATABASE_ERRORS
from cifar.training.display import Display

PRUNED = "pruned"  # an attribute of a trial: after which epoch it was to stop


class Reports:
    """What a search is told of the epochs of a trial, and whether it prunes it. Seeds and folds report nothing.

    Attributes:
        pruned: whether the trial is to stop, since others were better after as many epochs.
    """

    def __init__(self, queue: Queue, trial: Trial) -> None:
        self.pruned = False
        self._queue, self._trial = queue, trial
        self._is_search = queue.record["kind"] == "search"
        self._waiting: dict[int, float] = {}
        self._reported = set(trial_of(queue, trial.number).intermediate_values) if self._is_search else set()

    def catch_up(self, folder: Path, *, epochs: int) -> None:
        """Report the epochs of a run that another worker began.

        Args:
            folder: of the run.
            epochs: that it is to have; at its end nothing is pruned any more.

        Raises:
            Stopped: the search prunes the trial.
        """
        if not self._is_search or not (folder / METRICS).exists():
            return
        rows = read_metrics(folder)
        for row in rows:
            self.epoch(row)
        self.pruned = self.pruned or self._trial.user_attrs.get(PRUNED) == rows[-1]["epoch"]
        if self.pruned and rows[-1]["epoch"] < epochs and run_state(read_json(folder / SUMMARY)) == "unfinished":
            raise Stopped(folder)
        self.pruned = False

    def epoch(self, row: Mapping[str, float]) -> None:
        """Report an epoch by its row of metrics.csv; one that the queue does not take goes with the next."""
        epoch = int(row["epoch"])
        if not self._is_search:
            return
        if epoch not in self._reported:
            self._waiting[epoch] = row["validation_accuracy"]
        try:
            for number, accuracy in sorted(self._waiting.items()):
                self._trial.report(accuracy, number)
                self._reported.add(number)
                del self._waiting[number]
            self.pruned = self._trial.should_prune()
            if self.pruned:  # Optuna would say so only once, and another worker may have to end this trial
                self._trial.set_user_attr(PRUNED, epoch)
        except (*DATABASE_ERRORS, OSError):
            self._queue.say("The queue cannot be reached; the training goes on, and its epochs are reported later.")


DisplayOf = Callable[[Reports], AbstractContextManager[Display]]


def check_study_data(folder: Path, dataset: Dataset) -> None:
    """Refuse other data than the runs of a study were trained on.

    Raises:
        InputError: says which data it was.
    """
    for run in study_runs(folder)[:1]:
        check_data(run, read_json(run / SUMMARY), dataset)


def train_next(
    queue: Queue,
    job: Job,
    dataset: Dataset,
    *,
    display_of: DisplayOf,
    begins: Callable[[int, int, Mapping[str, Any], Path], object] = lambda *_: None,
) -> dict[str, Any] | None:
    """Take a trial, train it to its end and say so in the queue.

    A trial that this process leaves unfinished, stopped or failing for want of disk or data, is there for the next.
    One that diverges has failed, and so has one of a search whose recipe cannot be trained or takes too much memory.

    Args:
        queue: of the study.
        job: how to train; its recipe and folder are the trial's instead.
        dataset: to train on.
        display_of: makes the display of a trial, which passes epochs on to its reports and stops where they prune.
        begins: gets the trial's number, how many there are, the values that vary, and the run folder.

    Returns:
        number, state (done, pruned or failed), validation accuracy and reason; None where no trial is left to take.

    Raises:
        Stopped: the display asked for it.
        InputError, WorldError: as `run_one`.
    """
    worker = {"host": platform.node(), "pid": os.getpid(), "since": datetime.now(UTC).isoformat(timespec="seconds")}
    kind = queue.record["kind"]
    with taken_trial(queue, worker=worker) as trial:
        if trial is None:
            return None
        reports = Reports(queue, trial)
        outcome: dict[str, Any] = {"trial": position(queue, trial.number), "accuracy": None, "reason": ""}
        try:
            recipe = recipe_of(queue.record, trial.params)
            folder = queue.folder / run_name(recipe, kind=kind)
            begins(outcome["trial"], queue.record["trials"], trial.params, folder)
            reports.catch_up(folder, epochs=recipe.epochs)
            with display_of(reports) as display:
                summary = train_trial(job_of(job, recipe, folder), dataset, kind=kind, display=display)
        except Stopped:
            if not reports.pruned:
                raise
            end(queue, trial, state=TrialState.PRUNED)
            return outcome | {"state": "pruned"}
        except (InputError, WorldError) as error:
            if not fails(error, kind=kind):
                raise
            end(queue, trial, state=TrialState.FAIL, reason=str(error))
            return outcome | {"state": "failed", "reason": str(error)}
        accuracy = summary["validation_accuracy"]
        # Without validation images Optuna gets a number that says nothing: it never sees a test accuracy.
        end(queue, trial, state=TrialState.COMPLETE, accuracy=accuracy or 0.0)
        return outcome | {"state": "done", "accuracy": accuracy}


def job_of(job: Job, recipe: Recipe, folder: Path) -> Job:
    """The job of a trial: a new run, or one that is resumed as it was computed before."""
    if not is_run(folder):
        return replace(job, recipe=recipe, folder=folder)
    former = job_to_resume(folder, changes={})
    return replace(
        job, recipe=former.recipe, folder=folder, resume=True, kernels=job.kernels or former.kernels,
        compile=former.compile, deterministic=former.deterministic,
    )  # fmt: skip


def train_trial(job: Job, dataset: Dataset, *, kind: str, display: Display) -> dict[str, Any]:
    """Train a trial to its end; seeds and folds are also evaluated on the test set once, as any run is.

    Args:
        job: of the trial.
        dataset: to train on.
        kind: of the study.
        display: sees progress.

    Returns:
        what summary.json holds.

    Raises:
        Stopped, InputError, WorldError: as `run_one`.
    """
    with prepared(job) as ready:
        if kind != "search":
            return run_one(ready, dataset, display=display)
        if not job.resume or run_state(read_json(job.folder / SUMMARY)) == "unfinished":
            train_run(ready, dataset, display=display)
        return read_json(job.folder / SUMMARY)


def fails(error: Exception, *, kind: str) -> bool:
    """Whether an error is the recipe's, which would be the same on every machine, and not the world's."""
    return isinstance(error, Diverged) or (
        kind == "search" and (isinstance(error, InputError) or is_out_of_memory(error))
    )
