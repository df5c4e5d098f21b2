"""`cifar train`, and the script train.py with its questions."""

import contextlib
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from cifar.cli import display
from cifar.cli.app import INTERRUPTED, Data, Device, TrustCode, app, check_data_flag, open_data, run_app
from cifar.cli.secrets import hidden
from cifar.cli.terminal import Ended, exit_code, prepare
from cifar.errors import InputError
from cifar.machine import check_device, choose_compile, choose_device
from cifar.timing import process_seconds, timed
from cifar.training.launch import check_devices, end_if_fatal, ended_by_signals, launch, leave, place, was_restarted

if TYPE_CHECKING:
    from cifar.pipeline.job import Job

WHAT, RUN, HOW = "What to train", "The run", "How it is computed"
EXAMPLES = """Examples:

cifar train -m speednet-quick

cifar train -m resnet -e 50 -b 128 -l 0.1 -d cuda

cifar train -m resnet --set label_smoothing=0.1 --set mixup=0.2 --seed 1

cifar train -m previt -c -w -s runs/folds

cifar train --resume runs/folds

cifar train --from runs/resnet -e 10 -l 0.01
"""

Model = Annotated[
    str,
    typer.Option(
        "-m",
        "--model",
        rich_help_panel=WHAT,
        help="cnn, resnet, vit, previt, speednet, resnet56 …, timm:NAME or package.module:function.",
    ),
]
Epoch = Annotated[
    int | None, typer.Option("-e", "--epoch", rich_help_panel=WHAT, help="Passes over the training images.")
]
BatchSize = Annotated[int | None, typer.Option("-b", "--batch-size", rich_help_panel=WHAT, help="Images per step.")]
LearningRate = Annotated[
    float | None, typer.Option("-l", "--learning-rate", rich_help_panel=WHAT, help="Peak learning rate.")
]
CrossValidate = Annotated[
    bool, typer.Option("-c", "--cross-validate", rich_help_panel=WHAT, help="Cross-validate on 5 folds of the 50,000.")
]
Wandb = Annotated[bool, typer.Option("-w", "--wandb", rich_help_panel=RUN, help="Log to Weights & Biases.")]
SaveFolder = Annotated[
    Path | None,
    typer.Option("-s", "--save-folder", rich_help_panel=RUN, help="The run's folder; default runs/MODEL-TIME."),
]
Seed = Annotated[int | None, typer.Option("--seed", rich_help_panel=WHAT, help="Of weights, order and augmentation.")]
Folds = Annotated[
    int | None, typer.Option("--folds", rich_help_panel=WHAT, help="Number of folds; implies --cross-validate.")
]
Seeds = Annotated[
    int | None,
    typer.Option(
        "--seeds",
        rich_help_panel=WHAT,
        help="Train this many seeds: a study, as of `cifar sweep`, with this process as its worker.",
        metavar="N",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        rich_help_panel=WHAT,
        help="field=value or group.field=value, any field of the recipe; may be repeated.",
    ),
]
RecipeName = Annotated[
    str,
    typer.Option(
        "--recipe", rich_help_panel=WHAT, help="A named recipe, such as resnet-better or vit-plain, or a recipe.json."
    ),
]
Freeze = Annotated[
    bool,
    typer.Option("--freeze", rich_help_panel=WHAT, help="For previt: train only the head, on features computed once."),
]
TrainBlocks = Annotated[
    int | None,
    typer.Option(
        "--train-blocks",
        rich_help_panel=WHAT,
        help="For previt: train only the last N blocks and the head.",
        metavar="N",
    ),
]
Weights = Annotated[
    str,
    typer.Option(
        "--weights",
        rich_help_panel=WHAT,
        help="A file of weights, or a run's folder, to start from; for previt instead of the hub's.",
    ),
]
From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        rich_help_panel=WHAT,
        help="A new run with the recipe and from the weights of this run; its schedule begins anew.",
        metavar="RUN",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", rich_help_panel=RUN, help="Print the recipe and the plan, and stop.")
]
Resume = Annotated[
    Path | None,
    typer.Option(
        "--resume", rich_help_panel=RUN, help="Continue the run in this folder; -l and -e change it on purpose."
    ),
]
CheckpointMinutes = Annotated[
    float,
    typer.Option(
        "--checkpoint-minutes",
        min=0,
        rich_help_panel=RUN,
        help="Between two checkpoints within an epoch; 0: only at the ends of epochs.",
    ),
]
SkipBadSteps = Annotated[
    int | None,
    typer.Option(
        "--skip-bad-steps",
        rich_help_panel=RUN,
        help="Leave out up to N steps whose loss is not finite, and count them.",
        metavar="N",
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", rich_help_panel=RUN, help="Replace the run in the save folder.")
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", rich_help_panel=RUN, help="Log to TensorBoard, in the run's folder.")
]
Compile = Annotated[
    bool, typer.Option("--compile", rich_help_panel=HOW, help="Compile the network for training (torch.compile).")
]
Capture = Annotated[
    bool,
    typer.Option(
        "--capture/--no-capture", rich_help_panel=HOW, help="On a GPU: replay captured training steps (CUDA graphs)."
    ),
]
Deterministic = Annotated[
    bool,
    typer.Option(
        "--deterministic", rich_help_panel=HOW, help="On a GPU: the same bits every time, also when resumed; slower."
    ),
]
Devices = Annotated[
    int | None,
    typer.Option(
        "--devices",
        min=1,
        rich_help_panel=HOW,
        help="Train in N processes, each on its own GPU or with its part of the cores.",
        metavar="N",
    ),
]
SyncBatchNorm = Annotated[
    bool,
    typer.Option(
        "--sync-batchnorm", rich_help_panel=HOW, help="On several GPUs: batch statistics over all of them; slower."
    ),
]
Kernels = Annotated[
    str,
    typer.Option(
        "--kernels", rich_help_panel=HOW, help="On a CPU: native (where they can be compiled; the default) or pytorch."
    ),
]


@app.command(rich_help_panel="Train", epilog=EXAMPLES)
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
    seeds: Seeds = None,
    folds: Folds = None,
    data: Data = "",
    settings: Settings = None,
    recipe: RecipeName = "",
    weights: Weights = "",
    from_run: From = None,
    freeze: Freeze = False,
    train_blocks: TrainBlocks = None,
    dry_run: DryRun = False,
    resume: Resume = None,
    overwrite: Overwrite = False,
    tensorboard: TensorBoard = False,
    compile: Compile = False,
    capture: Capture = True,
    deterministic: Deterministic = False,
    devices: Devices = None,
    sync_batchnorm: SyncBatchNorm = False,
    kernels: Kernels = "",
    checkpoint_minutes: CheckpointMinutes = 5.0,
    skip_bad_steps: SkipBadSteps = None,
    trust_code: TrustCode = False,
) -> None:
    """Train a network, keep the best weights by validation accuracy, evaluate them on the test set once."""
    check_device(device)
    check_devices(devices, device=device, sync_batchnorm=sync_batchnorm)
    here = place()
    if here and here.restarts:
        end_if_fatal(here)
    if here and here.rank:
        follow_job()
        return
    check_data_flag(data)
    if kernels not in ("", "native", "pytorch"):
        raise InputError(f"There are no kernels {kernels!r}: choose native or pytorch.")
    from cifar.pipeline.job import (
        Job,
        begun_before,
        check_new_folder,
        default_folder,
        job_to_resume,
        recipe_to_start_from,
    )

    typed: list[str] = []
    changeable = {"epochs": epoch, "lr": learning_rate, "skip_bad_steps": skip_bad_steps}
    if resume:
        numbers = (batch_size, seed, seeds, folds, train_blocks)
        others = (freeze, model, recipe, cross_validate, settings, weights, from_run, save_folder, overwrite)
        if any(others) or any(number is not None for number in numbers):
            raise InputError(
                f"--resume continues {resume} by its own recipe: of the flags that change it, only -l, -e and "
                "--skip-bad-steps go with it."
            )
        job = job_to_resume(resume, changes=changeable)
    else:
        from cifar.recipes.choice import choose_recipe, frozen, own_code

        if folds == 0:
            raise InputError("--folds 0: cross-validation needs 2 folds or more.")
        if seeds is not None and (cross_validate or folds or overwrite):
            raise InputError("--seeds goes neither with -c, --folds nor --overwrite: folds have a seed each.")
        if seeds is not None and ((devices or 1) > 1 or (here and here.processes > 1)):
            raise InputError("--seeds trains each seed in one process: start `cifar sweep work` on each device.")
        if from_run and (model or recipe or weights):
            raise InputError(
                f"--from takes network, recipe and weights from {from_run}: leave -m, --recipe and --weights out, or "
                f"start another network with -m MODEL --weights {from_run}."
            )
        fields = changeable | {
            "batch_size": batch_size, "seed": seed, "weights": weights or (str(from_run) if from_run else None),
            "num_folds": 5 if cross_validate and folds is None else folds,
        }  # fmt: skip
        former = recipe_to_start_from(from_run) if from_run else recipe
        chosen = choose_recipe(model, former, settings=settings or [], fields=fields)
        if freeze or train_blocks is not None:
            if freeze and train_blocks:
                raise InputError("--freeze trains no block and --train-blocks some: give one of them.")
            chosen = frozen(chosen, train_blocks or 0)
        if here and here.processes > 1 and not save_folder:
            raise InputError("torchrun may start this again, which then has to find its run: give --save-folder.")
        folder = save_folder or default_folder(model or recipe or chosen.model)
        # What was typed here is the user's own; what only a file names is not.
        values = [model, *(setting.partition("=")[2].strip() for setting in settings or ())]
        typed = [name for name in own_code(chosen) if name in values]
        job = Job(chosen, folder, cross_validate=cross_validate or folds is not None, overwrite=overwrite)
        if was_restarted() and begun_before(job):
            display.say(f"Started again: going on with {folder}.")
            job = job_to_resume(folder, changes={})
        elif not dry_run and seeds is None:
            check_new_folder(folder, overwrite=overwrite)  # now, without waiting for PyTorch
    job = replace(
        job, data=data or job.data, device=device, kernels=kernels or job.kernels, compile=compile or job.compile,
        capture=capture, deterministic=deterministic or job.deterministic, wandb=wandb, tensorboard=tensorboard,
        sync_batchnorm=sync_batchnorm or job.sync_batchnorm,
        checkpoint_seconds=60 * checkpoint_minutes, command=hidden(shlex.join(["cifar", *context.obj])),
        trust_code=trust_code, trusted=tuple(typed),
    )  # fmt: skip
    if dry_run:
        show_plan(job, devices=devices or 1)
    elif seeds is not None:
        from cifar.cli.study import train_seeds

        train_seeds(job, seeds)
    elif devices and devices > 1 and not here:
        device = choose_device(device)
        check_devices(devices, device=device, sync_batchnorm=sync_batchnorm)
        arguments = [*context.obj, *([] if resume or save_folder else ["--save-folder", str(job.folder)])]
        raise typer.Exit(launch(arguments, devices=devices, device=device))
    else:
        train_job(job)


def show_header(job: "Job") -> None:
    """Say what a training is, as far as it is known before PyTorch is loaded."""
    recipe = job.recipe
    epochs = "1 epoch" if recipe.epochs == 1 else f"{recipe.epochs} epochs"
    folds = f"{recipe.holdout.num_folds} folds of " if job.cross_validate else ""
    data = {"": "CIFAR-10", "sample": "the sample"}.get(job.data, job.data)
    display.say(f"{recipe.model}: {folds}{epochs}, batch size {recipe.batch_size}, on {data}")
    if recipe.network.weights:
        schedule = "" if recipe.schedule.kind == "constant" else f"; the {recipe.schedule.kind} schedule begins anew"
        display.say(f"from the weights in {recipe.network.weights}{schedule * (not job.resume)}")
    display.say(f"folder: {job.folder}")


def follow_job() -> None:
    """Be one of several processes of a training, but not the first: silent, it does what the first one says."""
    display.be_silent()
    with ended_by_signals():
        from cifar.pipeline.start import follow

        with display.TerminalDisplay() as shown:
            follow(open_data, display=shown)


def train_job(job: "Job") -> None:
    """Train, test and report one run or all folds of a cross-validation."""
    named = ":" in job.recipe.model  # may yet be refused
    if not named:
        show_header(job)  # at once: PyTorch takes a second
    from cifar.pipeline.job import Stopped
    from cifar.pipeline.start import prepared, run_job
    from cifar.recipes.choice import own_code
    from cifar.runs import is_run

    with prepared(job) as ready:
        if named:
            show_header(job)
        timing = {"start_up": process_seconds()}
        with timed(timing, "data"):
            dataset = open_data(job.data)
        program = "python3 train.py" if Path(sys.argv[0]).name == "train.py" else "cifar train"
        resume = f"{program} --resume {shlex.quote(str(job.folder))}" + " --trust-code" * bool(own_code(job.recipe))
        if (here := place()) and here.hosts == 1 < here.processes:
            resume += f" --devices {here.processes}"
        with display.TerminalDisplay() as shown:
            try:
                result = run_job(replace(ready, timing=timing), dataset, display=shown)
            except Stopped:
                display.say(f"Stopped; everything is saved. Resume with: {resume}")
                raise typer.Exit(shown.exit_code) from None
            except (KeyboardInterrupt, Ended) as interrupt:
                begun = is_run(job.folder)
                display.say(f"Interrupted. Go on with: {resume}" if begun else "Interrupted; nothing was trained.")
                raise typer.Exit(exit_code(interrupt)) from None
            if job.cross_validate:
                display.crossval(result, job.folder)
        display.next_commands(job.folder, folds=job.recipe.holdout.num_folds if job.cross_validate else 0)


def show_plan(job: "Job", *, devices: int) -> None:
    """Print the recipe as JSON, then what would happen, without touching data or disk.

    Args:
        job: to do.
        devices: processes that would share it.
    """
    from cifar.files import cache_folder
    from cifar.kernels.build import using
    from cifar.models import build_model, num_parameters
    from cifar.recipes import to_json
    from cifar.training.step import precision_of

    recipe, device = job.recipe, choose_device(job.device)
    trusted = job.trust_code or recipe.model in job.trusted
    parameters = num_parameters(build_model(recipe, pretrained=False, trust_code=trusted))
    with using(job.kernels) if job.kernels else contextlib.nullcontext():
        precision, precision_remark = precision_of(recipe, device=device)
    display.result_text(to_json(recipe).rstrip())
    compiled, compile_remark = choose_compile(job.compile, device=device)
    remarks = "".join(f" ({remark})" for remark in (precision_remark, compile_remark) if remark)
    folds = f"{recipe.holdout.num_folds} folds, each on " if job.cross_validate else ""
    lines = (
        f"network: {recipe.model}, {parameters:,} parameters",
        f"data: {job.data or f'CIFAR-10, from {cache_folder()} or else downloaded'}",
        f"trained on: {folds}{recipe.holdout.training_fraction:.0%} of the training images",
        f"length: {recipe.epochs} epochs, batch size {recipe.batch_size}",
        f"device: {device}, {precision}{', compiled' if compiled else ''}"
        f"{f', {devices} processes' if devices > 1 else ''}{remarks}",
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
    leave(run_app(app, ["train", *arguments], program="train.py"))


def ask_for_arguments() -> list[str]:
    """The answers of a person as the arguments that they stand for, shown so that they can be repeated."""
    from cifar.cli.prompts import ask
    from cifar.pipeline.job import default_folder

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
