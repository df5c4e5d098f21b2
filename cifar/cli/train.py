"""`cifar train`, and the script train.py with its questions."""

import datetime
import os
import secrets
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from cifar.cli import display
from cifar.cli.app import (
    INTERRUPTED,
    Data,
    Device,
    TrustCode,
    app,
    check_data_flag,
    check_folder_name,
    data_of,
    open_data,
    run_app,
)
from cifar.cli.secrets import hidden
from cifar.cli.terminal import Ended, exit_code, prepare
from cifar.errors import InputError
from cifar.machine import (
    check_device,
    choose_compile,
    choose_device,
    flush_denormals,
    keep_compiled,
    start_gpu,
)
from cifar.timing import process_seconds, timed

if TYPE_CHECKING:
    from cifar.pipeline import Job
    from cifar.recipes import Recipe

Model = Annotated[
    str,
    typer.Option(
        "-m", "--model", help="cnn, resnet, vit, previt, speednet, resnet56 …, timm:NAME or package.module:function."
    ),
]
Epoch = Annotated[int | None, typer.Option("-e", "--epoch", help="Passes over the training images.")]
BatchSize = Annotated[int | None, typer.Option("-b", "--batch-size", help="Images per step.")]
LearningRate = Annotated[float | None, typer.Option("-l", "--learning-rate", help="Peak learning rate.")]
CrossValidate = Annotated[bool, typer.Option("-c", "--cross-validate", help="Cross-validate on 5 folds of the 50,000.")]
Wandb = Annotated[bool, typer.Option("-w", "--wandb", help="Log to Weights & Biases.")]
SaveFolder = Annotated[
    Path | None, typer.Option("-s", "--save-folder", help="The run's folder; default runs/MODEL-TIME.")
]
Seed = Annotated[int | None, typer.Option("--seed", help="Of weights, order and augmentation.")]
Folds = Annotated[int | None, typer.Option("--folds", help="Number of folds; implies --cross-validate.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="field=value or group.field=value, any field of the recipe; may be repeated."),
]
RecipeName = Annotated[
    str, typer.Option("--recipe", help="A named recipe, such as resnet-better or vit-plain, or a recipe.json.")
]
Freeze = Annotated[bool, typer.Option("--freeze", help="For previt: train only the head, on features computed once.")]
TrainBlocks = Annotated[
    int | None,
    typer.Option("--train-blocks", help="For previt: train only the last N blocks and the head.", metavar="N"),
]
Weights = Annotated[
    str, typer.Option("--weights", help="A file of weights to start from; for previt instead of those of the hub.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the recipe and the plan, and stop.")]
Resume = Annotated[
    Path | None, typer.Option("--resume", help="Continue the run in this folder; -l and -e change it on purpose.")
]
CheckpointMinutes = Annotated[
    float,
    typer.Option(
        "--checkpoint-minutes", min=0, help="Between two checkpoints within an epoch; 0: only at the ends of epochs."
    ),
]
SkipBadSteps = Annotated[
    int | None,
    typer.Option(
        "--skip-bad-steps", help="Leave out up to N steps whose loss is not finite, and count them.", metavar="N"
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in the save folder.")]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Log to TensorBoard, in the run's folder.")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the network for training (torch.compile).")]
Capture = Annotated[
    bool, typer.Option("--capture/--no-capture", help="On a GPU: replay captured training steps (CUDA graphs).")
]
Deterministic = Annotated[
    bool, typer.Option("--deterministic", help="On a GPU: the same bits every time, also when resumed; slower.")
]
Kernels = Annotated[
    str, typer.Option("--kernels", help="On a CPU: native (where they can be compiled; the default) or pytorch.")
]


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
    compile: Compile = False,
    capture: Capture = True,
    deterministic: Deterministic = False,
    kernels: Kernels = "",
    checkpoint_minutes: CheckpointMinutes = 5.0,
    skip_bad_steps: SkipBadSteps = None,
    trust_code: TrustCode = False,
) -> None:
    """Train a network, keep the best weights by validation accuracy, evaluate them on the test set once."""
    check_device(device)
    check_data_flag(data)
    if kernels not in ("", "native", "pytorch"):
        raise InputError(f"There are no kernels {kernels!r}: choose native or pytorch.")
    changeable = {"epochs": epoch, "lr": learning_rate, "skip_bad_steps": skip_bad_steps}
    if resume:
        numbers = (batch_size, seed, folds, train_blocks)
        others = (freeze, model, recipe, cross_validate, settings, weights, save_folder, overwrite)
        if any(others) or any(number is not None for number in numbers):
            raise InputError(
                f"--resume continues {resume} by its own recipe: of the flags that change it, only -l, -e and "
                "--skip-bad-steps go with it."
            )
        from cifar.runs import CROSSVAL, how_computed, recipe_to_resume

        chosen, folder, cross_validate = recipe_to_resume(resume), resume, (resume / CROSSVAL).exists()
        chosen = changed_recipe(chosen, changeable, cross_validate=cross_validate)
        data = data or data_of(resume)
        former = how_computed(resume)
        kernels, compile = kernels or former.get("kernels", ""), compile or former.get("compiled", False)
        deterministic = deterministic or (former.get("device") != "cpu" and former.get("deterministic", False))
    else:
        if folds == 0:
            raise InputError("--folds 0: cross-validation needs 2 folds or more.")
        flags = changeable | {
            "batch_size": batch_size, "seed": seed, "weights": weights or None,
            "num_folds": 5 if cross_validate and folds is None else folds,
        }  # fmt: skip
        cross_validate = cross_validate or folds is not None
        chosen = choose_recipe(model, recipe, settings or [], flags)
        if freeze or train_blocks is not None:
            if freeze and train_blocks:
                raise InputError("--freeze trains no block and --train-blocks some: give one of them.")
            chosen = frozen(chosen, train_blocks or 0)
        folder = save_folder or default_folder(model or recipe)
        check_folder_name(folder)
        if not dry_run:
            check_new_folder(folder, overwrite=overwrite)  # now, without waiting for PyTorch
    if kernels:
        os.environ["CIFAR_KERNELS"] = kernels
    if not dry_run and ":" not in chosen.model:
        display.say(first_line(chosen, folder))  # PyTorch takes a second; other networks may yet be refused
    from cifar.pipeline import Job

    if compile:
        keep_compiled()
    job = Job(
        chosen, folder, device=choose_device(device), compile=compile, capture=capture, deterministic=deterministic,
        cross_validate=cross_validate, wandb=wandb, tensorboard=tensorboard, resume=bool(resume), overwrite=overwrite,
        checkpoint_seconds=60 * checkpoint_minutes, command=hidden(shlex.join(["cifar", *context.obj])),
        trust_code=trust_code or bool(model),  # typed here, it is the user's own
    )  # fmt: skip
    if dry_run:
        show_plan(job, data)
    else:
        run_job(job, data)


def changed_recipe(recipe: "Recipe", changes: dict[str, Any], *, cross_validate: bool) -> "Recipe":
    """The recipe of a run to resume, with what --resume may change on purpose.

    Args:
        recipe: of the run.
        changes: values by fields; None is not given.
        cross_validate: whether it is a cross-validation, whose folds are all trained alike.

    Raises:
        InputError: a value that is not valid, or any for a cross-validation.
    """
    from cifar.recipes import with_fields

    given = {name: value for name, value in changes.items() if value is not None}
    if given and cross_validate:
        raise InputError(
            "All folds of a cross-validation are trained alike: resume it without -l, -e, --skip-bad-steps."
        )
    return with_fields(recipe, **given)


def check_new_folder(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that a new run cannot have; nothing in it is changed.

    Raises:
        InputError, WorldError: as `new_run`.
    """
    from cifar.runs import new_run

    with new_run(folder, overwrite=overwrite):
        pass


def choose_recipe(model: str, recipe: str, settings: list[str], flags: dict[str, Any]) -> "Recipe":
    """The recipe that the flags stand for; --recipe decides, -m then puts another network into it.

    Args:
        model: of -m; recipe: of --recipe; "" is none.
        settings: of --set.
        flags: values of other flags by the fields that they set; None is not given.

    Raises:
        InputError: no such model, recipe or field, or a value that is not valid.
    """
    from cifar.recipes import RECIPES, read_recipe, recipe_for, typed_recipe, with_fields
    from cifar.recipes.names import check_name

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
        chosen = with_fields(chosen, model=recipe_for(model).model)
    check_name(chosen.model)
    return typed_recipe(chosen, settings, {name: value for name, value in flags.items() if value is not None})


def first_line(recipe: "Recipe", folder: Path) -> str:
    """What a training is, in a line."""
    epochs = "1 epoch" if recipe.epochs == 1 else f"{recipe.epochs} epochs"
    return f"{recipe.model}: {epochs}, batch size {recipe.batch_size}, run folder {folder}"


def frozen(recipe: "Recipe", train_blocks: int) -> "Recipe":
    """The recipe with only the head and the last blocks trained, and no augmentation: activations are computed once."""
    from cifar.recipes import with_fields

    off = {"crop_padding": 0, "flip": 0.0, "brightness": 0.0, "contrast": 0.0, "mixup": 0.0, "cutmix": 0.0}
    return with_fields(recipe, train_blocks=train_blocks, **off)


def default_folder(name: str) -> Path:
    """runs/NAME-TIME-xxxx, which no other process chooses in the same second."""
    stem = Path(name).stem.replace(":", "-") if name.endswith(".json") else name.replace(":", "-").replace("/", "-")
    time = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{stem}-{time}-{secrets.token_hex(2)}"


def run_job(job: "Job", data: str) -> None:
    """Train, test and report one run or all folds of a cross-validation.

    Args:
        job: what was asked for.
        data: of --data.
    """
    from cifar.models import build_model
    from cifar.models.own import check_trust, is_own
    from cifar.pipeline import Stopped, run_folds, run_one
    from cifar.runs import is_run

    if is_own(job.recipe.model):
        check_trust(job.recipe.model, trust_code=job.trust_code)
    start_gpu(job.device, deterministic=job.deterministic)
    flush_denormals()  # before the network is built: PyTorch's threads inherit the mode
    if not job.resume:
        build_model(
            job.recipe, for_training=True, trust_code=job.trust_code
        )  # now, so that a wrong name or weights that cannot be had leave nothing behind
    if ":" in job.recipe.model:
        display.say(first_line(job.recipe, job.folder))
    timing = {"start_up": process_seconds()}
    with timed(timing, "data"):
        dataset = open_data(data)
    job = replace(job, timing=timing)
    program = "python3 train.py" if Path(sys.argv[0]).name == "train.py" else "cifar train"
    resume = f"{program} --resume {shlex.quote(str(job.folder))}" + " --trust-code" * is_own(job.recipe.model)
    with display.TerminalDisplay() as shown:
        try:
            if job.cross_validate:
                display.crossval(run_folds(job, dataset, display=shown), job.folder)
            else:
                run_one(job, dataset, display=shown)
        except Stopped:
            display.say(f"Stopped; everything is saved. Resume with: {resume}")
            raise typer.Exit(shown.exit_code) from None
        except (KeyboardInterrupt, Ended) as interrupt:
            begun = is_run(job.folder)
            display.say(f"Interrupted. Go on with: {resume}" if begun else "Interrupted; nothing was trained.")
            raise typer.Exit(exit_code(interrupt)) from None


def show_plan(job: "Job", data: str) -> None:
    """Print the recipe as JSON, then what would happen, without touching data or disk.

    Args:
        job: what was asked for.
        data: of --data.
    """
    from cifar.files import cache_folder
    from cifar.models import build_model
    from cifar.recipes import to_json
    from cifar.training.step import precision_of

    recipe = job.recipe
    parameters = sum(
        parameter.numel() for parameter in build_model(recipe, pretrained=False, trust_code=job.trust_code).parameters()
    )
    precision, precision_remark = precision_of(recipe, device=job.device)
    display.result_text(to_json(recipe).rstrip())
    compiled, compile_remark = choose_compile(job.compile, device=job.device)
    remarks = "".join(f" ({remark})" for remark in (precision_remark, compile_remark) if remark)
    folds = f"{recipe.holdout.num_folds} folds, each on " if job.cross_validate else ""
    lines = (
        f"network: {recipe.model}, {parameters:,} parameters",
        f"data: {data or f'CIFAR-10, from {cache_folder()} or else downloaded'}",
        f"trained on: {folds}{recipe.holdout.training_fraction:.0%} of the training images",
        f"length: {recipe.epochs} epochs, batch size {recipe.batch_size}",
        f"device: {job.device}, {precision}{', compiled' if compiled else ''}{remarks}",
        f"folder: {job.folder}",
    )
    display.result_text("\n".join(lines))


def train_main() -> NoReturn:
    """The script train.py: `cifar train`, and questions when it is started bare in a terminal."""
    prepare()
    arguments = sys.argv[1:]
    if not arguments and sys.stdin.isatty() and sys.stdout.isatty():
        sys.exit(run_app(app, ask_for_arguments(), program="cifar"))
    if not arguments:
        display.say(
            "Usage: python3 train.py -m MODEL [-e EPOCHS] [-b BATCH] [-l RATE] [-d DEVICE] …; --help lists all flags."
        )
        sys.exit(2)
    sys.exit(run_app(app, ["train", *arguments], program="train.py"))


def ask_for_arguments() -> list[str]:
    """The answers of a person as the arguments that they stand for, shown so that they can be repeated."""
    from cifar.cli.prompts import ask

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
    display.say(f"python3 train.py {shlex.join(arguments)}")
    return ["train", *arguments]
