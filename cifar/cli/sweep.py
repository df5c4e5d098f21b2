"""`cifar sweep new`, `work` and `show`: many runs of one recipe; and `cifar train --seeds`, the first two in one."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cifar.cli import display
from cifar.cli.app import Data, Device, TrustCode, app, check_data_flag, open_data
from cifar.cli.secrets import hidden
from cifar.cli.terminal import Ended, exit_code
from cifar.cli.train import (
    BatchSize,
    CheckpointMinutes,
    Deterministic,
    Epoch,
    Kernels,
    LearningRate,
    Model,
    RecipeName,
    Seed,
    Settings,
)
from cifar.errors import InputError
from cifar.machine import check_device

if TYPE_CHECKING:
    from cifar.pipeline.job import Job
    from cifar.recipes import Recipe
    from cifar.sweep.work import Reports

WHAT, HOW_MANY = "What to train", "How many"
EXAMPLES = """Examples:

cifar sweep new runs/seeds -m resnet --seeds 5

cifar sweep new runs/folds -m resnet -e 50 --folds 5

cifar sweep new runs/search -m resnet --search lr=0.02..0.5:log --search batch_size=64,128,256 --trials 40

cifar sweep work runs/search
"""
sweep = typer.Typer(
    no_args_is_help=True,
    help="Many runs: seeds, folds or a search, shared out among workers on one machine or many.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(sweep, name="sweep", rich_help_panel="Train")

Study = Annotated[Path, typer.Argument(help="The folder of the study.")]
Storage = Annotated[
    str,
    typer.Option(
        "--storage",
        help="PostgreSQL that keeps the queue, postgresql+psycopg://USER@HOST/DATABASE (or CIFAR_STORAGE, or with "
        "PGPASSWORD); default: a journal in the study's folder.",
    ),
]


@sweep.command(epilog=EXAMPLES)
def new(
    context: typer.Context,
    study: Study,
    model: Model = "",
    epoch: Epoch = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    settings: Settings = None,
    recipe: RecipeName = "",
    seed: Seed = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", rich_help_panel=HOW_MANY, help="Train this many seeds of the recipe.")
    ] = None,
    folds: Annotated[
        int | None, typer.Option("--folds", rich_help_panel=HOW_MANY, help="Train every fold of a cross-validation.")
    ] = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            "--search",
            rich_help_panel=HOW_MANY,
            help="field=LOW..HIGH, field=LOW..HIGH:log or field=A,B,C: search the best by validation accuracy; may be "
            "repeated.",
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option("--trials", rich_help_panel=HOW_MANY, help="How many recipes a search tries.")
    ] = None,
    data: Data = "",
    storage: Storage = "",
) -> None:
    """Begin a study: what is to be trained, and how often. Nothing is trained yet."""
    check_data_flag(data)
    if [seeds is not None, folds is not None, bool(search)].count(True) != 1:
        raise InputError("Say what the study is to vary: one of --seeds N, --folds K or --search FIELD=… --trials N.")
    if (trials is None) == bool(search):
        raise InputError("--search and --trials go together: give both, or neither.")
    from cifar.recipes.choice import choose_recipe, own_code

    if folds == 0:
        raise InputError("--folds 0: cross-validation needs 2 folds or more.")
    fields = {"epochs": epoch, "batch_size": batch_size, "lr": learning_rate, "seed": seed, "num_folds": folds}
    chosen = choose_recipe(model, recipe, settings=settings or [], fields=fields)
    if data not in ("", "sample"):
        data = str(Path(data).expanduser().resolve())
    create_study(
        study, chosen, seeds=seeds, search=search, trials=trials, data=data, storage=storage,
        command=shlex.join(["cifar", *context.obj]),
    )  # fmt: skip
    path, trust = shlex.quote(str(study)), " --trust-code" * bool(own_code(chosen))
    display.say("next:")
    display.say(f"  cifar sweep work {path}{trust}   (as many workers as you like, wherever the folder is seen)")
    display.say(f"  cifar sweep show {path}")


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
    check_storage(url)
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


@sweep.command()
def work(
    study: Study,
    storage: Storage = "",
    device: Device = "",
    kernels: Kernels = "",
    deterministic: Deterministic = False,
    checkpoint_minutes: CheckpointMinutes = 5.0,
    trust_code: TrustCode = False,
) -> None:
    """Be a worker of a study: take a trial, train it, take the next, until none is left.

    Trials that a stopped or killed worker left come first and are resumed exactly. Ctrl-C stops after the current step,
    with everything saved.
    """
    check_device(device)
    if kernels not in ("", "native", "pytorch"):
        raise InputError(f"There are no kernels {kernels!r}: choose native or pytorch.")
    from cifar.pipeline.job import Job
    from cifar.recipes import from_mapping
    from cifar.runs import STUDY, read_study
    from cifar.sweep import check_optuna

    record = read_study(study)
    check_optuna()
    recipe = from_mapping(record["recipe"], origin=str(study / STUDY))
    job = Job(
        recipe, study, data=record["data"], device=device, kernels=kernels, deterministic=deterministic,
        checkpoint_seconds=60 * checkpoint_minutes, command=record["command"], trust_code=trust_code,
    )  # fmt: skip
    work_on(job, storage=storage)


def work_on(job: "Job", *, storage: str = "") -> None:
    """Train the trials of a study, one after the other, until none is left to take.

    Args:
        job: how to train; its folder is the study's.
        storage: of --storage.
    """
    from cifar.cli.study import result_sentence, say_trial, show_end
    from cifar.pipeline.job import Stopped
    from cifar.pipeline.start import prepared
    from cifar.runs import read_study
    from cifar.sweep.queue import open_queue
    from cifar.sweep.show import describe_study
    from cifar.sweep.storage import explained, url_of
    from cifar.sweep.work import check_study_data, train_next

    folder, record = job.folder, read_study(job.folder)
    url = url_of(record, storage)
    path = shlex.quote(str(folder))
    with prepared(job) as ready:  # what no trial could be trained with is refused before one is taken
        dataset = open_data(job.data)
        check_study_data(folder, dataset)
        queue = open_queue(folder, record, url=url, say=display.say)
        displays: list[TrialDisplay] = []

        def display_of(reports: "Reports") -> TrialDisplay:
            displays.append(TrialDisplay(reports))
            return displays[-1]

        try:
            with explained(folder, url):
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


@sweep.command()
def show(
    study: Study,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON instead of a table.")] = False,
    test: Annotated[
        bool,
        typer.Option("--test", help="Evaluate the best run of a finished search on the test set, once; counted."),
    ] = False,
    storage: Storage = "",
    device: Device = "",
    trust_code: TrustCode = False,
) -> None:
    """Show a study: each trial with its state, accuracy and time left, what runs where, and the result."""
    check_device(device)
    from cifar.cli.study import show_study
    from cifar.runs import read_study
    from cifar.sweep import check_optuna

    record = read_study(study)
    check_optuna()
    from cifar.sweep.queue import open_queue
    from cifar.sweep.show import chosen_run, describe_study
    from cifar.sweep.storage import url_of

    queue = open_queue(study, record, url=url_of(record, storage), say=display.say)
    described = describe_study(queue)
    if test:
        test_run(chosen_run(queue, described), data=record["data"], device=device, trust_code=trust_code)
        described = describe_study(queue)
    if as_json:
        print(json.dumps(described, indent=2, allow_nan=False))
    else:
        show_study(described)


def test_run(folder: Path, *, data: str, device: str, trust_code: bool) -> None:
    """Evaluate a run on the test set and count it; one that is tested already is left alone."""
    from cifar.machine import choose_device, flush_denormals
    from cifar.pipeline.evaluation import evaluate_run
    from cifar.runs import SUMMARY, read_json, run_state

    if run_state(read_json(folder / SUMMARY)) == "tested":
        return
    flush_denormals()
    with display.TerminalDisplay() as shown:
        evaluate_run(
            folder, open_data(data), split="test", purpose="best of a search", device=choose_device(device),
            display=shown, trust_code=trust_code,
        )  # fmt: skip


def train_seeds(job: "Job", number: int) -> None:
    """`cifar train --seeds`: begin a study of seeds, and work on it.

    Args:
        job: how to train; its folder is the study's.
        number: of seeds.
    """
    create_study(job.folder, job.recipe, seeds=number, data=job.data, command=job.command)
    work_on(job)
