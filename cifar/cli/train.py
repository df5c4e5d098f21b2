"""`cifar train`, and the script train.py with its questions."""

import dataclasses
import datetime
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from cifar import show
from cifar.cli.app import INTERRUPTED, Data, Device, app, data_of, open_data, run_app
from cifar.errors import InputError, WorldError
from cifar.machine import choose_device, choose_precision, flush_denormals
from cifar.recipes import (
    AUGMENTS,
    RECIPES,
    Recipe,
    field_types,
    read_recipe,
    recipe_for,
    to_json,
    training_share,
    with_settings,
)

if TYPE_CHECKING:
    from cifar.jobs import Job

Model = Annotated[
    str,
    typer.Option(
        "-m", "--model", help="cnn, resnet, vit, previt, speednet, resnet56 …, timm:NAME or package.module:function."
    ),
]
Epoch = Annotated[int | None, typer.Option("-e", "--epoch", help="Passes over the training images.")]
BatchSize = Annotated[int | None, typer.Option("-b", "--batch-size", help="Images a step.")]
LearningRate = Annotated[float | None, typer.Option("-l", "--learning-rate", help="Learning rate at its highest.")]
CrossValidate = Annotated[bool, typer.Option("-c", "--cross-validate", help="Cross-validate on 5 folds of the 50,000.")]
Wandb = Annotated[bool, typer.Option("-w", "--wandb", help="Log to Weights & Biases.")]
SaveFolder = Annotated[
    Path | None, typer.Option("-s", "--save-folder", help="The run's folder; default runs/MODEL-TIME.")
]
Seed = Annotated[int | None, typer.Option("--seed", help="Of weights, order and augmentation.")]
Folds = Annotated[int | None, typer.Option("--folds", help="Number of folds; implies --cross-validate.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="field=value, any field of the recipe; may be repeated.")
]
RecipeName = Annotated[str, typer.Option("--recipe", help=f"{', '.join(RECIPES)}, or a recipe.json.")]
Freeze = Annotated[bool, typer.Option("--freeze", help="For previt: train only the head, on features computed once.")]
TrainBlocks = Annotated[
    int | None, typer.Option("--train-blocks", help="For previt: train only the last so many blocks and the head.")
]
Weights = Annotated[
    str, typer.Option("--weights", help="For previt: a file of pretrained weights, instead of the hub.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the recipe and the plan, and stop.")]
Resume = Annotated[Path | None, typer.Option("--resume", help="Continue the run in this folder.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in the save folder.")]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Log to TensorBoard, in the run's folder.")]


@app.command()
def train(
    context: typer.Context,
    model: Model = "",
    epoch: Epoch = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    device: Device = "",
    cross_validate: CrossValidate = False,
    wandb: Wandb = False,
    save_folder: SaveFolder = None,
    seed: Seed = None,
    folds: Folds = None,
    data: Data = "",
    settings: Settings = None,
    recipe: RecipeName = "",
    weights: Weights = "",
    freeze: Freeze = False,
    train_blocks: TrainBlocks = None,
    dry_run: DryRun = False,
    resume: Resume = None,
    overwrite: Overwrite = False,
    tensorboard: TensorBoard = False,
) -> None:
    """Train a network, keep the best weights by validation accuracy, read the test set once with them."""
    from cifar.jobs import Job

    if resume:
        numbers = (epoch, batch_size, learning_rate, seed, folds, train_blocks)
        others = (freeze, model, recipe, cross_validate, settings, weights, save_folder, overwrite)
        if any(others) or any(number is not None for number in numbers):
            raise InputError(
                f"--resume continues {resume} by its own recipe: leave out the flags that would change it."
            )
        job = resumed_job(resume)
        data = data or data_of(resume)
    else:
        changes: dict[str, Any] = {
            "epochs": epoch,
            "batch_size": batch_size,
            "lr": learning_rate,
            "seed": seed,
            "weights": weights or None,
        }
        if freeze or train_blocks is not None:
            if freeze and train_blocks:
                raise InputError("--freeze trains no block and --train-blocks some: give one of them.")
            # What is computed once cannot change from epoch to epoch.
            changes |= {"train_blocks": train_blocks or 0} | {name: field_types()[name](0) for name in AUGMENTS}
        changes |= {"num_folds": 5 if cross_validate and folds is None else folds}
        chosen = with_settings(choose_recipe(model, recipe), settings or [])
        chosen = dataclasses.replace(chosen, **{name: value for name, value in changes.items() if value is not None})
        if folds == 0:
            raise InputError("--folds 0: cross-validation needs 2 folds or more.")
        job = Job(
            chosen, save_folder or default_folder(model or recipe), cross_validate=cross_validate or folds is not None
        )
    job = dataclasses.replace(
        job,
        device=choose_device(device),
        wandb=wandb,
        tensorboard=tensorboard,
        command=shlex.join(["cifar", *context.obj]),
    )
    if dry_run:
        show_plan(job, data)
    else:
        run_job(job, data, overwrite=overwrite)


def choose_recipe(model: str, recipe: str) -> Recipe:
    """The recipe that -m and --recipe name together; --recipe decides, -m then puts another network into it."""
    from cifar.models import check_name

    if not model and not recipe:
        raise InputError(f"Name a model: -m with one of {', '.join(RECIPES)}.")
    if model:
        check_name(model, also=RECIPES)
    if not recipe:
        chosen = recipe_for(model)
    elif recipe in RECIPES:
        chosen = RECIPES[recipe]()
    elif recipe.endswith(".json") or Path(recipe).exists():
        chosen = read_recipe(Path(recipe))
    else:
        raise InputError(f"There is no recipe {recipe!r}: choose from {', '.join(RECIPES)} or name a recipe.json.")
    if recipe and model:
        chosen = dataclasses.replace(chosen, model=recipe_for(model).model)
    check_name(chosen.model)
    return chosen


def default_folder(name: str) -> Path:
    """runs/NAME-TIME, which does not exist yet."""
    stem = Path(name).stem.replace(":", "-") if name.endswith(".json") else name.replace(":", "-").replace("/", "-")
    time = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = Path("runs") / f"{stem}-{time}"
    return next(path for path in (folder, *(Path(f"{folder}-{n}") for n in range(2, 100))) if not path.exists())


def resumed_job(folder: Path) -> "Job":
    """The job that a stopped run or cross-validation was.

    Raises:
        InputError: no run folder.
    """
    from cifar.jobs import Job
    from cifar.runs import CROSSVAL, run_recipe

    return Job(run_recipe(folder), folder, cross_validate=(folder / CROSSVAL).exists(), resume=True)


def run_job(job: "Job", data: str, *, overwrite: bool) -> None:
    """Train, test and report one run or all folds of a cross-validation."""
    from cifar.jobs import Stopped, Watch, run_folds, run_one
    from cifar.models import build_model
    from cifar.runs import new_folder

    flush_denormals()  # here, since the data and the network are torch's first work
    if not job.resume:
        build_model(job.recipe)  # now, so that a wrong name or weights that cannot be had leave nothing behind
        new_folder(job.folder, overwrite=overwrite)
    try:
        dataset = open_data(data)
    except (InputError, WorldError):
        if not job.resume:
            remove_empty(job.folder)
        raise
    with stop_on_signal() as should_stop:
        watch = Watch(show.say, should_stop, show.training_display, show.image_progress, show.fold_result)
        try:
            if job.cross_validate:
                show.crossval(run_folds(job, dataset, watch=watch), job.folder)
            else:
                show.result(run_one(job, dataset, watch=watch), job.folder)
        except Stopped as stopped:
            folder = shlex.quote(str(stopped.folder))
            program = "python3 train.py" if Path(sys.argv[0]).name == "train.py" else "cifar train"
            show.say(f"Stopped; everything is saved. Resume with: {program} --resume {folder}")
            raise typer.Exit(INTERRUPTED) from None


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """While this lasts, the first Ctrl-C or TERM asks the training to stop after its step; a second one kills it."""
    asked: list[int] = []

    def ask(number: int, _frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        show.say("Stopping after this step …")

    former = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def remove_empty(folder: Path) -> None:
    """Take a run folder away again that nothing was written to, and `runs` if it was made for it."""
    with suppress(OSError):
        folder.rmdir()
        if folder.parent == Path("runs"):
            folder.parent.rmdir()


def show_plan(job: "Job", data: str) -> None:
    """Print the recipe as JSON, then what would happen, without touching data or disk."""
    from cifar.data.cifar10 import cache_folder
    from cifar.models import build_model

    recipe = job.recipe
    parameters = sum(parameter.numel() for parameter in build_model(recipe, pretrained=False).parameters())
    precision, remark = choose_precision(recipe.precision, device=job.device)
    show.result_text(to_json(recipe).rstrip())
    folds = f"{recipe.num_folds} folds, each on " if job.cross_validate else ""
    lines = (
        f"network: {recipe.model}, {parameters:,} parameters",
        f"data: {data or f'CIFAR-10, from {cache_folder()} or else downloaded'}",
        f"trained on: {folds}{training_share(recipe):.0%} of the training images",
        f"length: {recipe.epochs} epochs of batches of {recipe.batch_size}",
        f"device: {job.device}, {precision}" + (f" ({remark})" if remark else ""),
        f"folder: {job.folder}",
    )
    show.result_text("\n".join(lines))


def train_main() -> NoReturn:
    """The script train.py: `cifar train`, and questions when it is started bare in a terminal."""
    arguments = sys.argv[1:]
    if not arguments and sys.stdin.isatty() and sys.stdout.isatty():
        sys.exit(run_app(app, ask_for_arguments(), program="cifar"))
    if not arguments:
        show.say(
            "Usage: python3 train.py -m MODEL [-e EPOCHS] [-b BATCH] [-l RATE] [-d DEVICE] …; --help lists all flags."
        )
        sys.exit(2)
    sys.exit(run_app(app, ["train", *arguments], program="train.py"))


def ask_for_arguments() -> list[str]:
    """The answers of a person as the arguments that they stand for, shown so that they can be repeated."""
    from cifar.prompts import ask

    best = choose_device()
    answers = ask(
        devices=[best] if best == "cpu" else [best, "cpu"], default_folder=lambda name: str(default_folder(name))
    )
    if answers is None:
        sys.exit(INTERRUPTED)
    arguments = [
        "-m", answers.model, "-e", str(answers.epoch), "-b", str(answers.batch_size),
        "-l", f"{answers.learning_rate:g}", "-d", answers.device, "-s", answers.save_folder,
    ]  # fmt: skip
    arguments += ["-c"] * answers.cross_validate + ["-w"] * answers.wandb
    show.say(f"python3 train.py {shlex.join(arguments)}")
    return ["train", *arguments]
