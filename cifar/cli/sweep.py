"""`cifar sweep new`, `work` and `show`: many runs of one recipe, on one machine or many."""

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from cifar.cli import display
from cifar.cli.app import Data, Device, TrustCode, app, check_data_flag, open_data
from cifar.cli.study import create_study, work_on
from cifar.cli.study_table import show_study
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
    TensorBoard,
    Wandb,
)
from cifar.errors import InputError
from cifar.machine import check_device

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
        help="PostgreSQL for the queue, postgresql+psycopg://HOST/DATABASE; default: the variable CIFAR_STORAGE, else "
        "a journal in the study's folder. A password belongs into PGPASSWORD.",
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


@sweep.command()
def work(
    study: Study,
    storage: Storage = "",
    device: Device = "",
    kernels: Kernels = "",
    deterministic: Deterministic = False,
    wandb: Wandb = False,
    tensorboard: TensorBoard = False,
    checkpoint_minutes: CheckpointMinutes = 5.0,
    trust_code: TrustCode = False,
) -> None:
    """Be a worker of a study: take a trial, train it, take the next, until none is left.

    Trials that a stopped or killed worker left come first, and are resumed exactly.
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
        recipe, study, data=record["data"], device=device, kernels=kernels, deterministic=deterministic, wandb=wandb,
        tensorboard=tensorboard,
        checkpoint_seconds=60 * checkpoint_minutes, command=record["command"], trust_code=trust_code,
    )  # fmt: skip
    work_on(job, storage=storage)


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
