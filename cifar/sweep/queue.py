"""The queue of a study: Optuna's, in the journal of its folder or in PostgreSQL.

Who takes a trial or ends one holds the study's lock meanwhile, and who has a trial holds that trial's lock until it is
ended. A trial that is running by the queue and whose lock is free was left by a worker that was stopped or killed: it
is taken up at once. Optuna's heartbeats are not used. They run only inside `Study.optimize`, take ten minutes to miss a
worker, mark live trials as failed when a machine sleeps or the database restarts (optuna#4234, #5470, #3198), and begin
the trial anew under another number. A lock ends with its process, whatever ends it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from cifar.runs import claimed, held_queue
from cifar.sweep.storage import open_storage, patiently, readable

SAME_AS, REASON, WORKER = "same_as", "reason", "worker"  # what a trial's attributes say


@dataclass(frozen=True)
class Queue:
    """The open queue of a study.

    Attributes:
        folder: of the study.
        record: what study.json holds.
        study: Optuna's.
        say: takes a remark, where the database is waited for.
    """

    folder: Path
    record: Mapping[str, Any]
    study: optuna.Study
    say: Callable[[str], object]


def open_queue(
    folder: Path, record: Mapping[str, Any], *, url: str, say: Callable[[str], object], patience: float = 0.0
) -> Queue:
    """Open the queue of a study; what is missing of it is made, so that it may be lost without harm.

    Args:
        folder: of the study.
        record: what study.json holds.
        url: of the database; "" is the journal.
        say: takes a remark.
        patience: seconds that the database may be away.

    Raises:
        WorldError: the journal is damaged or cannot be written, or the database cannot be reached.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def opened() -> Queue:
        with held_queue(folder), readable(folder, url):
            study = optuna.create_study(
                storage=open_storage(folder, url), study_name=record["name"], direction="maximize",
                pruner=pruner_of(record), load_if_exists=True,
            )  # fmt: skip
            queue = Queue(folder, record, study, say)
            fill(queue)
            return queue

    return patiently(opened, url=url, say=say, seconds=patience)


def pruner_of(record: Mapping[str, Any]) -> optuna.pruners.BasePruner:
    """Hyperband over the epochs of a search (Li et al. 2018); seeds and folds are all trained to their end."""
    if record["kind"] != "search":
        return optuna.pruners.NopPruner()
    epochs = record["space"].get("epochs", {"choices": [record["recipe"]["epochs"]]})
    return optuna.pruners.HyperbandPruner(max_resource=epochs.get("high") or max(epochs["choices"]))


def fill(queue: Queue) -> None:
    """Put into the queue what it lacks: all trials of a new study, and another for each that repeats a recipe.

    What a trial of seeds or folds is to be stands with it; the values of a search are drawn when a worker takes it.
    """
    record, trials = queue.record, queue.study.get_trials(deepcopy=False)
    fixed = {} if record["kind"] == "search" else record["space"]
    for number in range(sum(SAME_AS not in trial.user_attrs for trial in trials), record["trials"]):
        queue.study.enqueue_trial({name: each["choices"][number] for name, each in fixed.items()})


def draw(trial: Trial, space: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw the values of a trial; those that it has stay."""
    for name, each in space.items():
        if "choices" in each:
            trial.suggest_categorical(name, each["choices"])
        elif isinstance(each["low"], int):
            trial.suggest_int(name, each["low"], each["high"], log=each["log"])
        else:
            trial.suggest_float(name, each["low"], each["high"], log=each["log"])


@contextmanager
def taken_trial(queue: Queue, *, worker: Mapping[str, Any]) -> Iterator[Trial | None]:
    """Take a trial that nobody has, and hold it; None where there is none.

    Those that another worker left come first. Every trial draws from a seed of its own, the recipe's plus its number,
    so that a search with one worker gives the same trials however often it is stopped.

    Args:
        queue: of the study.
        worker: what `cifar sweep show` says of this one.

    Raises:
        WorldError: the database has been away for too long.
    """
    with ExitStack() as stack:

        def take() -> Trial | None:
            with held_queue(queue.folder), ExitStack() as claim:  # free again where the database fails
                while (number := next_number(queue, claim)) is not None:
                    trial = begin(queue, number)
                    if (other := same_trial(queue, trial)) is None:
                        trial.set_user_attr(WORKER, dict(worker))
                        stack.push(claim.pop_all())
                        return trial
                    trial.set_user_attr(SAME_AS, other)
                    queue.study.tell(number, state=TrialState.FAIL)
                    fill(queue)
                return None

        yield patiently(take, url=queue.record["storage"], say=queue.say)


def next_number(queue: Queue, claim: ExitStack) -> int | None:
    """The number of the trial to take, which `claim` then holds; the queue is held."""
    running = queue.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    waiting = queue.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    for trial in (*running, *waiting[:1]):  # Optuna gives the first that waits
        if claim.enter_context(claimed(queue.folder, trial.number)):
            return trial.number
    return None


def begin(queue: Queue, number: int) -> Trial:
    """The trial of this number, running, with all its values; the queue is held."""
    study = queue.study
    study.sampler = sampler_of(queue.record, number)
    frozen = trial_of(queue, number)
    trial = study.ask() if frozen.state == TrialState.WAITING else Trial(study, frozen._trial_id)
    assert trial.number == number, (trial.number, number)
    draw(trial, queue.record["space"])
    return trial


def sampler_of(record: Mapping[str, Any], number: int) -> optuna.samplers.BaseSampler:
    """TPE (Watanabe 2023), and for those trials that stand for a repetition plain chance, which finds what is left."""
    seed = (record["recipe"]["seed"] + number) % 2**32
    if number < record["trials"]:
        return optuna.samplers.TPESampler(seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


def position(queue: Queue, number: int) -> int:
    """The number of a trial as people see it: from 1, those that repeat a recipe left out."""
    trials = queue.study.get_trials(deepcopy=False)
    return sum(trial.number <= number and SAME_AS not in trial.user_attrs for trial in trials)


def trial_of(queue: Queue, number: int) -> FrozenTrial:
    """The trial of this number, as the queue has it now."""
    return next(trial for trial in queue.study.get_trials(deepcopy=False) if trial.number == number)


def same_trial(queue: Queue, trial: Trial) -> int | None:
    """The number of an earlier trial of the same recipe, which need not be trained again; None where there is none."""
    for other in queue.study.get_trials(deepcopy=False):
        if other.number != trial.number and other.params == trial.params and SAME_AS not in other.user_attrs:
            return other.number
    return None


def end(queue: Queue, trial: Trial, *, state: TrialState, accuracy: float | None = None, reason: str = "") -> None:
    """End a trial; one that is ended already stays as it is.

    Args:
        queue: of the study.
        trial: that this process holds.
        state: COMPLETE, PRUNED or FAIL.
        accuracy: on validation images, of a complete one.
        reason: of a failed one, in a sentence.
    """

    def tell() -> None:
        with held_queue(queue.folder):
            if not trial_of(queue, trial.number).state.is_finished():
                if reason:
                    trial.set_user_attr(REASON, reason)
                queue.study.tell(trial.number, accuracy, state=state)

    patiently(tell, url=queue.record["storage"], say=queue.say)


def is_left(queue: Queue, trial: FrozenTrial) -> bool:
    """Whether a running trial has no worker any more; the queue is held."""
    with claimed(queue.folder, trial.number) as is_free:
        return is_free
