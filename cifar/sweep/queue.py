"""The queue of a study: Optuna's, in the journal of its folder or in PostgreSQL.

Who takes a trial or ends one holds the study's lock meanwhile, and who has a trial holds that trial's lock until it is
ended. A trial that is running by the queue and whose lock is free was left by a worker that was stopped or killed: it
is taken up at once. Optuna's heartbeats are not used. They run only inside `Study.optimize`, take ten minutes to miss a
worker, mark live trials as failed when a machine sleeps or the database restarts (optuna#4234, #5470, #3198), and begin
the trial anew under another number. A lock ends with its process, whatever ends it.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from cifar.errors import WorldError
from cifar.runs import JOURNAL, claimed, held_queue
from cifar.sweep.storage import open_storage, where

Result = TypeVar("Result")
PATIENCE = 600.0  # seconds that a database may be away, as while it is restarted
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


def open_queue(folder: Path, record: Mapping[str, Any], *, url: str, say: Callable[[str], object]) -> Queue:
    """Open the queue of a study; what is missing of it is made, so that it may be lost without harm.

    Args:
        folder: of the study.
        record: what study.json holds.
        url: of the database; "" is the journal.
        say: takes a remark.

    Raises:
        WorldError: the journal cannot be written, or the database cannot be reached.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with held_queue(folder), explained(folder, url), readable(folder, url):
        study = optuna.create_study(
            storage=open_storage(folder, url),
            study_name=record["name"],
            direction="maximize",
            pruner=pruner_of(record),
            load_if_exists=True,
        )
        for number in range(len(study.get_trials(deepcopy=False)), record["trials"]):
            study.enqueue_trial(fixed_values(record, number))
    return Queue(folder, record, study, say)


def check_storage(url: str) -> None:
    """Refuse a database that cannot be used, before anything is made; "" is the journal.

    Raises:
        WorldError: says why.
    """
    if url:
        with explained(Path(), url):
            open_storage(Path(), url).remove_session()


def pruner_of(record: Mapping[str, Any]) -> optuna.pruners.BasePruner:
    """Hyperband over the epochs of a search (Li et al. 2018); seeds and folds are all trained to their end."""
    if record["kind"] != "search":
        return optuna.pruners.NopPruner()
    epochs = record["space"].get("epochs", {"choices": [record["recipe"]["epochs"]]})
    return optuna.pruners.HyperbandPruner(max_resource=epochs.get("high") or max(epochs["choices"]))


def fixed_values(record: Mapping[str, Any], number: int) -> dict[str, Any]:
    """What a trial must be; nothing in a search, whose values are drawn when a worker takes it."""
    if record["kind"] == "search":
        return {}
    return {name: each["choices"][number] for name, each in record["space"].items()}


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
                    trial.set_user_attr(SAME_AS, other + 1)  # as trials are shown, from 1
                    queue.study.tell(number, state=TrialState.FAIL)
                return None

        yield patiently(queue, take)


def next_number(queue: Queue, claim: ExitStack) -> int | None:
    """The number of the trial to take, which `claim` then holds; the queue is held."""
    for state in (TrialState.RUNNING, TrialState.WAITING):
        for trial in queue.study.get_trials(deepcopy=False, states=(state,)):
            if claim.enter_context(claimed(queue.folder, trial.number)):
                return trial.number
    return None


def begin(queue: Queue, number: int) -> Trial:
    """The trial of this number, running, with all its values; the queue is held."""
    study = queue.study
    study.sampler = optuna.samplers.TPESampler(seed=(queue.record["recipe"]["seed"] + number) % 2**32)
    frozen = trial_of(queue, number)
    trial = study.ask() if frozen.state == TrialState.WAITING else Trial(study, frozen._trial_id)
    assert trial.number == number, (trial.number, number)
    draw(trial, queue.record["space"])
    return trial


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

    patiently(queue, tell)


def is_left(queue: Queue, trial: FrozenTrial) -> bool:
    """Whether a running trial has no worker any more; the queue is held."""
    with claimed(queue.folder, trial.number) as is_free:
        return is_free


def patiently(queue: Queue, action: Callable[[], Result]) -> Result:
    """What an action gives that may be repeated; while the database does not answer, it is tried again.

    Raises:
        WorldError: it has not answered for `PATIENCE` seconds.
    """
    begun, pause = time.monotonic(), 1.0
    while True:
        try:
            return action()
        except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
            if time.monotonic() - begun > PATIENCE:
                raise unreachable(queue.record["storage"], error) from None
            if pause == 1.0:
                queue.say(f"{where(queue.record['storage'])} does not answer; it is asked again for ten minutes.")
            time.sleep(pause)
            pause = min(2 * pause, 15.0)


@contextmanager
def explained(folder: Path, url: str) -> Iterator[None]:
    """Turn what goes wrong with a queue into a sentence.

    Args:
        folder: of the study.
        url: of the database; "" is the journal.

    Raises:
        WorldError: names the database or the journal, and what helps.
    """
    try:
        yield
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
        raise unreachable(url, error) from None
    except OSError as error:
        raise WorldError(f"{folder / JOURNAL} cannot be used ({error.strerror or error}).") from None


@contextmanager
def readable(folder: Path, url: str) -> Iterator[None]:
    """Turn whatever Optuna raises of a journal that was changed or damaged into a sentence, as `explained` does."""
    try:
        yield
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError):
        if url:
            raise
        raise WorldError(
            f"{folder / JOURNAL} is damaged: remove it. The queue is made again, and finished runs are found in it."
        ) from None


def unreachable(url: str, error: Exception) -> WorldError:
    """The error of a database that does not answer."""
    cause = str(error.__cause__ or error).splitlines()[0]
    return WorldError(f"{where(url)} cannot be used ({cause}): start it, or give its address with --storage.")
