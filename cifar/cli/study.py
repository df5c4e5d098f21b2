"""A study created and worked on, for `cifar sweep` and `cifar train --seeds`."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cifar.cli import display
from cifar.cli.app import open_data
from cifar.cli.secrets import hidden
from cifar.cli.study_table import result_sentence, say_trial, show_end
from cifar.cli.terminal import Ended, exit_code

if TYPE_CHECKING:
    from cifar.pipeline.job import Job
    from cifar.recipes import Recipe
    from cifar.sweep.work import Reports


class TrialDisplay(display.TerminalDisplay):
    """The display of a trial, which passes its epochs on to a search and stops it where that prunes it."""

    def __init__(self, reports: "Reports") -> None:
        super().__init__()
        self._reports = reports

    def end_epoch(self, row: Mapping[str, float], *, is_best: bool) -> None:
        super().end_epoch(row, is_best=is_best)
        self._reports.epoch(row)

    def should_stop(self) -> bool:
        return self._reports.pruned or super().should_stop()


def train_seeds(job: "Job", number: int) -> None:
    """`cifar train --seeds`: begin a study of seeds, and work on it.

    Args:
        job: how to train; its folder is the study's.
        number: of seeds.
    """
    create_study(job.folder, job.recipe, seeds=number, data=job.data, command=job.command)
    work_on(job)


def create_study(
    folder: Path,
    recipe: "Recipe",
    *,
    seeds: int | None = None,
    search: list[str] | None = None,
    trials: int | None = None,
    data: str = "",
    storage: str = "",
    command: str = "",
) -> None:
    """Create the folder of a study and its queue; without seeds and search it is of the recipe's folds.

    Raises:
        InputError: a number, field, range or storage that is not valid, or a folder that is not empty.
        WorldError: Optuna is absent, or the folder or queue cannot be made.
    """
    from cifar.sweep import check_optuna
    from cifar.sweep.space import of_folds, of_search, of_seeds

    check_optuna()
    if search:
        kind, space = "search", of_search(recipe, search, trials=trials or 0)
    elif seeds is not None:
        kind, space = "seeds", of_seeds(recipe, seeds)
    else:
        kind, space = "folds", of_folds(recipe)
    from cifar.recipes import to_mapping
    from cifar.runs import check_free_for_study, new_study
    from cifar.sweep.queue import open_queue
    from cifar.sweep.storage import check_storage, new_name, url_of_new, where, without_password

    check_free_for_study(folder)
    url = url_of_new(storage)
    check_storage(url, say=display.say)
    number = trials if search else len(next(iter(space.values()))["choices"])
    record = {
        "kind": kind, "name": new_name(folder, url), "recipe": to_mapping(recipe), "space": space, "trials": number,
        "data": data, "storage": without_password(url), "command": hidden(command),
    }  # fmt: skip
    new_study(folder, record)
    open_queue(folder, record, url=url, say=display.say)
    epochs = "1 epoch" if recipe.epochs == 1 else f"{recipe.epochs} epochs"
    named = {"": "CIFAR-10", "sample": "the sample"}.get(data, data)
    what = {"seeds": "seeds", "folds": "folds", "search": "trials"}[kind]
    display.say(f"{recipe.model}: {number} {what} of {epochs}, on {named}")
    display.say(f"folder: {folder}")
    display.say(f"queue: {where(url)[0].lower()}{where(url)[1:]}")


def work_on(job: "Job", *, storage: str = "") -> None:
    """Train the trials of a study, one after the other, until none is left to take.

    Args:
        job: how to train; its folder is the study's.
        storage: of --storage.
    """
    from cifar.pipeline.job import Stopped
    from cifar.pipeline.start import prepared
    from cifar.runs import read_study
    from cifar.sweep.queue import open_queue
    from cifar.sweep.show import describe_study
    from cifar.sweep.storage import PATIENCE, url_of
    from cifar.sweep.work import check_study_data, train_next

    folder, record = job.folder, read_study(job.folder)
    url = url_of(record, storage)
    path = shlex.quote(str(folder))
    with prepared(job) as ready:  # what no trial could be trained with is refused before one is taken
        dataset = open_data(job.data)
        check_study_data(folder, dataset)
        queue = open_queue(folder, record, url=url, say=display.say, patience=PATIENCE)
        displays: list[TrialDisplay] = []

        def display_of(reports: "Reports") -> TrialDisplay:
            displays.append(TrialDisplay(reports))
            return displays[-1]

        try:
            while result := train_next(queue, ready, dataset, display_of=display_of, begins=say_trial):
                if result["state"] != "done" or record["kind"] == "search":
                    display.result_text(result_sentence(result))
        except Stopped:
            display.say(f"Stopped; everything is saved. Go on with: cifar sweep work {path}")
            raise typer.Exit(displays[-1].exit_code) from None
        except (KeyboardInterrupt, Ended) as interrupt:
            display.say(f"Interrupted. Go on with: cifar sweep work {path}")
            raise typer.Exit(exit_code(interrupt)) from None
        show_end(describe_study(queue))
