"""The Python API: `import cifar`, then `cifar.train(…)`. The commands call the same functions."""

import contextlib
import inspect
import shlex
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar.cli import display
from cifar.cli.app import open_data, show_remark
from cifar.cli.secrets import hidden
from cifar.errors import InputError
from cifar.recipes import RECIPES, Recipe, with_fields
from cifar.recipes.choice import choose_recipe, frozen
from cifar.recipes.names import MODELS
from cifar.recipes.text import flat_name
from cifar.runs import (
    CROSSVAL,
    SUMMARY,
    check_begun,
    expand_studies,
    is_run,
    read_json,
    read_metrics,
    run_recipe,
    run_state,
)
from cifar.training.display import Display

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cifar.data.cifar10 import Dataset
    from cifar.data.split import Split
    from cifar.pipeline.job import Job
    from cifar.serving.classifier import Classifier

    Network = str | Callable[..., nn.Module]


@dataclass(frozen=True, repr=False)
class Run:
    """A run on disk: `cifar.Run("runs/mine")`, or what `train` returns.

    Attributes:
        folder: its folder, or that of a cross-validation, which holds one per fold.
        trust_code: import and run the user's functions, if the recipe names some. A run that `train` returns has it
            where they were given there.

    Raises:
        InputError: the folder holds no run.
    """

    folder: Path
    trust_code: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder).expanduser())
        check_begun(self.folder)

    def __repr__(self) -> str:
        name, accuracy, interval = self.recipe.model, self.accuracy, self.interval
        if self.folds:
            name += f", {len(self.folds)} folds"
        if accuracy is None or interval is None:
            return f"Run({str(self.folder)!r}: {name}, {self.state})"
        low, high = interval
        what = "interval over the folds" if self.folds else "95 % interval"
        return f"Run({str(self.folder)!r}: {name}, test accuracy {accuracy:.2%}, {what} {low:.2%} to {high:.2%})"

    @property
    def recipe(self) -> Recipe:
        """Everything that decided the result."""
        return run_recipe(self.folder)

    @property
    def folds(self) -> "list[Run]":
        """The runs of a cross-validation; none of a single run."""
        if not (self.folder / CROSSVAL).exists():
            return []
        return [Run(path, self.trust_code) for path in sorted(self.folder.glob("fold-*")) if is_run(path)]

    @property
    def summary(self) -> dict[str, Any]:
        """What summary.json holds, or crossval.json: result, machine, versions, data, every test evaluation."""
        return read_json(self.folder / (CROSSVAL if (self.folder / CROSSVAL).exists() else SUMMARY))

    @property
    def state(self) -> str:
        """unfinished, trained (not tested yet) or tested."""
        summary = self.summary
        if "num_folds" in summary or self.folds:
            return "tested" if summary["finished"] else "unfinished"
        return run_state(summary)

    @property
    def metrics(self) -> list[dict[str, float]]:
        """A row per epoch: loss and accuracy on training and validation images, learning rate, seconds."""
        return read_metrics(self.folder)

    @property
    def accuracy(self) -> float | None:
        """On the test set, a fraction; of a cross-validation the mean over its folds; None before it is tested."""
        if self.state != "tested":
            return None
        summary = self.summary
        return float(summary["test"]["mean"] if "test" in summary else summary["test_accuracy"])

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval of `accuracy`: 95 % over the test images, or Student's over the folds, which is narrower."""
        if self.state != "tested":
            return None
        summary = self.summary
        low, high = summary["test"]["interval"] if "test" in summary else summary["test_interval"]
        return float(low), float(high)

    def evaluate(
        self,
        *,
        split: str = "test",
        tta: str = "",
        references: bool = False,
        corruptions: bool = False,
        data: str | Path = "",
        device: str = "",
        quiet: bool = False,
    ) -> dict[str, Any]:
        """Evaluate the best weights, as `cifar evaluate` does; files and pictures go into the folder.

        A test evaluation is counted in summary.json. On images of one's own nothing is written or counted.

        Args:
            split: test, or validation: the images that this run held out.
            tta: test-time augmentation: none, mirror or shift; "" is the recipe's.
            references: compare with human labels and known faults of the test set, too.
            corruptions: evaluate on 75 corrupted copies of the test images, too (minutes).
            data: where CIFAR-10 is; "" is what the run was trained on; or images of one's own, in a folder for each
                class: cat/any-name.jpg.
            device: cpu, mps or cuda; "" is the best there is.
            quiet: show no progress.

        Returns:
            what evaluation.json holds; under "references" and "corruptions" what theirs do.

        Raises:
            InputError: the folder of a cross-validation, other data, no such split or TTA, or no validation images.
            WorldError: a file is absent or damaged.
        """
        from cifar.machine import choose_device
        from cifar.pipeline.elsewhere import evaluate_own_images, is_labelled_folder
        from cifar.pipeline.evaluation import evaluate_run
        from cifar.pipeline.job import data_to_reopen

        if self.folds:
            raise InputError(f"{self.folder} holds a cross-validation: evaluate one of its folds, such as .folds[0].")
        with showing(quiet=quiet) as shown:
            if data and is_labelled_folder(Path(data)):
                if references or corruptions or split != "test":
                    raise InputError("references, corruptions and split are of CIFAR-10: leave them out.")
                return evaluate_own_images(
                    self.load(device=device), Path(data), name=self.folder.name, views=tta, display=shown
                )[0]
            dataset = opened(str(data) or data_to_reopen(self.folder), quiet=quiet)
            return evaluate_run(
                self.folder, dataset, split=split, purpose="cifar.Run.evaluate", device=choose_device(device),
                display=shown, views=tta, trust_code=self.trust_code, references=references, corruptions=corruptions,
            )  # fmt: skip

    def report(self, output: str | Path | None = None) -> Path:
        """Write one HTML file of all that is known of the run, as `cifar report` does.

        Args:
            output: the file; None is report.html in the folder.

        Raises:
            InputError: the run is not tested, or the file is a folder.
            WorldError: a file is damaged or cannot be written.
        """
        from cifar.pipeline.report import write_report

        path = Path(output) if output else None
        return write_report([self.folder], path, command=f"cifar report {shlex.quote(str(self.folder))}")

    def export(
        self,
        kind: str = "onnx",
        output: str | Path | None = None,
        *,
        pixels: str = "float",
        int8: bool = False,
        opset: int = 0,
    ) -> Path:
        """Write the network for use elsewhere, as `cifar export` does.

        Args:
            kind: onnx, checked against the network on 1,200 images, or safetensors: a plain folder.
            output: the .onnx file or the folder; None is in the run's folder.
            pixels: input of the ONNX file: float, in [0, 1], or uint8, 0 to 255.
            int8: also write an 8-bit ONNX file, calibrated and measured on validation images.
            opset: ONNX's operator set, lower for older runtimes; 0 is PyTorch's choice.

        Raises:
            InputError: no such kind or input, or a network that ONNX cannot express.
            WorldError: the file cannot be written.
        """
        from cifar.pipeline.export import write_folder, write_onnx
        from cifar.pipeline.job import data_to_reopen

        if kind not in ("onnx", "safetensors"):
            raise InputError(f"There is no format {kind!r}: choose onnx or safetensors.")
        path = Path(output) if output else None
        if kind == "safetensors":
            return write_folder(self.folder, path, trust_code=self.trust_code)[0]
        open_it = (lambda: opened(data_to_reopen(self.folder), quiet=False)) if int8 else None
        return write_onnx(self.folder, path, kind=pixels, opset=opset, open_data=open_it, trust_code=self.trust_code)[0]

    def load(self, *, device: str = "") -> "Classifier":
        """The trained network, to predict with.

        Args:
            device: cpu, mps or cuda; "" is the best there is.

        Raises:
            InputError, WorldError: as `load_model`.
        """
        return load_model(self.folder, device=device, trust_code=self.trust_code)


def train(
    model: "Network" = "",
    *,
    recipe: str | Path | Recipe = "",
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    settings: Mapping[str, object] | None = None,
    folds: int = 0,
    augment: "Callable[[Tensor], Tensor] | None" = None,
    weights: str | Path = "",
    from_run: "Run | str | Path" = "",
    train_blocks: int | None = None,
    data: str | Path = "",
    folder: str | Path | None = None,
    overwrite: bool = False,
    device: str = "",
    kernels: str = "",
    compile: bool = False,
    capture: bool = True,
    deterministic: bool = False,
    wandb: bool = False,
    tensorboard: bool = False,
    checkpoint_minutes: float = 5.0,
    trust_code: bool = False,
    quiet: bool = False,
) -> Run:
    """Train a network, keep its best weights by validation accuracy and evaluate them on the test set once.

    Ctrl-C stops it after the current step with everything saved; `cifar.resume(folder)` goes on.

    Args:
        model: a name, such as "resnet" or "timm:resnet18", or a function without arguments that returns a network:
            float pixels in [0, 1], [N, 3, 32, 32], to logits [N, 10].
        recipe: a recipe's name, a recipe.json, or one that `cifar.recipe` made; "" is the model's.
        epochs: passes over the training images.
        batch_size: images per step.
        lr: peak learning rate.
        seed: of weights, order and augmentation.
        settings: other fields of the recipe, such as {"label_smoothing": 0.1}.
        augment: a function of one's own that changes a batch's pixels, float [N, 3, 32, 32], after the recipe's
            augmentation, in training only.
        folds: cross-validate on this many; 0 is one split into training and validation images.
        weights: a file of weights, or a run's folder, to start from.
        from_run: a trained run, whose recipe and weights a new one starts with; its schedule begins anew. Then neither
            model, recipe nor weights is given.
        train_blocks: of a pretrained network, train only the last blocks and the head; 0 is the head alone.
        data: a folder or archive of CIFAR-10, or "sample"; "" is the cache, or else a download.
        folder: the run's; None is runs/MODEL-TIME.
        overwrite: replace what a former run left in it.
        device: cpu, mps or cuda; "" is the best there is.
        kernels: on a CPU, native or pytorch; "" is native where they can be compiled.
        compile: fuse the network's operations with torch.compile.
        capture: on a GPU, capture a training step as a CUDA graph and replay it.
        deterministic: on a GPU, train with algorithms that give the same bits every time.
        wandb, tensorboard: log there too.
        checkpoint_minutes: between two checkpoints within an epoch; 0 is only at the ends of epochs.
        trust_code: import and run functions that only a recipe.json names.
        quiet: show nothing.

    Raises:
        InputError: a name or value that is not valid, or a folder that is not empty.
        WorldError: data or weights cannot be had, the disk is full, or the training diverged.
        KeyboardInterrupt: by Ctrl-C.
    """
    command = as_typed(train, locals())
    from cifar.models.own import name_of
    from cifar.pipeline.job import Job, check_new_folder, default_folder, recipe_to_start_from

    model = model if isinstance(model, str) else name_of(model)
    augmentation = name_of(augment) if augment else None
    if isinstance(from_run, Run):
        trust_code = trust_code or from_run.trust_code
    start = str(from_run.folder if isinstance(from_run, Run) else from_run)
    if start and (model or recipe or weights):
        raise InputError("from_run gives network, recipe and weights: leave model, recipe and weights out.")
    fields = {flat_name(name): value for name, value in (settings or {}).items()} | {
        "epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed, "num_folds": folds or None,
        "weights": str(weights or start) or None, "own_augmentation": augmentation,
    }  # fmt: skip
    with showing(quiet=quiet) as shown:
        chosen = choose_recipe(model, recipe_to_start_from(Path(start)) if start else recipe, fields=fields)
        if train_blocks is not None:
            chosen = frozen(chosen, train_blocks)
        path = (
            Path(folder)
            if folder
            else default_folder(model or (str(recipe) if recipe and not isinstance(recipe, Recipe) else chosen.model))
        )
        check_new_folder(path, overwrite=overwrite)
        job = Job(
            chosen, path, data=str(data), device=device, kernels=kernels, compile=compile, capture=capture,
            deterministic=deterministic, cross_validate=folds > 0, wandb=wandb, tensorboard=tensorboard,
            overwrite=overwrite, checkpoint_seconds=60 * checkpoint_minutes, command=command,
            trust_code=trust_code, trusted=(model, augmentation or ""),
        )  # fmt: skip
        return finish(job, shown, quiet=quiet)


def resume(
    folder: str | Path,
    *,
    epochs: int | None = None,
    lr: float | None = None,
    data: str | Path = "",
    device: str = "",
    wandb: bool = False,
    tensorboard: bool = False,
    trust_code: bool = False,
    quiet: bool = False,
) -> Run:
    """Go on with a run that was stopped or killed, bit for bit as if it had never stopped, or train one for longer.

    Args:
        folder: of the run or cross-validation.
        epochs: in all, more than it was to have.
        lr: another peak learning rate.
        data, device, wandb, tensorboard, quiet: as of `train`.
        trust_code: import and run the user's functions, if the recipe names some.

    Raises:
        InputError, WorldError, KeyboardInterrupt: as of `train`.
    """
    from cifar.pipeline.job import job_to_resume

    with showing(quiet=quiet) as shown:
        job = job_to_resume(Path(folder), changes={"epochs": epochs, "lr": lr})
        job = replace(
            job, data=str(data) or job.data, device=device, wandb=wandb, tensorboard=tensorboard, trust_code=trust_code,
        )  # fmt: skip
        return finish(job, shown, quiet=quiet)


def load_model(run: str | Path, *, device: str = "", trust_code: bool = False) -> "Classifier":
    """The trained network of a run, to use: `load_model("runs/mine").predict("cat.jpg").names`.

    Args:
        run: a run's folder, or one that `cifar export --format safetensors` wrote; an ONNX file of `cifar export`; a
            recorded run that ships with this package, such as "resnet"; or "owner/name" on the Hugging Face hub.
        device: cpu, mps or cuda; "" is the best there is.
        trust_code: import and run the user's functions, if the recipe names some.

    Returns:
        a `cifar.serving.classifier.Classifier`, whose `predict` takes paths, pictures of Pillow, arrays and tensors.

    Raises:
        InputError: nothing of that name, the folder of a cross-validation, a device that is absent, or code that is not
            trusted.
        WorldError: the weights cannot be had, are damaged or of another network.
    """
    from cifar.serving.classifier import load_model

    return load_model(run, device=device, trust_code=trust_code)


def load_data(data: str | Path = "", *, split: str = "train", quiet: bool = False) -> "Split":
    """The images of CIFAR-10 and their labels, verified against one checksum.

    Args:
        data: a folder or archive of CIFAR-10, or "sample"; "" is the cache, or else a download.
        split: train (50,000 images) or test (10,000). What you choose on the test images, they no longer measure.
        quiet: show no progress of a download.

    Returns:
        a `cifar.data.split.Split`: images uint8 [N, 3, 32, 32], labels int64 [N].

    Raises:
        InputError: no such path or split.
        WorldError: the data cannot be had, or are not CIFAR-10.
    """
    from cifar.data.cifar10 import load

    if split not in ("train", "test"):
        raise InputError(f"There is no split {split!r}: choose train or test.")
    return load(opened(str(data), quiet=quiet), split)


def compare(*runs: Run | str | Path, split: str = "test", tta: str = "", seed: int = 0) -> dict[str, Any]:
    """Compare runs on the same images, from the predictions in their folders: no new test evaluation.

    Args:
        runs: two or more, tested; the folder of a study stands for its runs.
        split: test, or validation after `Run.evaluate(split="validation")`.
        tta: none, mirror or shift; "" is each run's recipe's.
        seed: of the bootstraps.

    Returns:
        what `cifar compare --json` prints: under "conclusions" sentences; under "pairs" differences with intervals,
        McNemar's p and agreement; under "recipes" means over seeds.

    Raises:
        InputError: fewer than two runs, or runs whose images are not the same.
        WorldError: a file is damaged.
    """
    from cifar.evaluation.comparison import compare_runs
    from cifar.reporting.records import read_evaluated_runs

    folders = expand_studies([run.folder if isinstance(run, Run) else Path(run) for run in runs])
    if len(folders) < 2:
        raise InputError("Name two runs or more to compare.")
    return compare_runs(read_evaluated_runs(folders, split=split, views=tta), seed=seed)


def recipe(name: str, **fields: object) -> Recipe:
    """A recipe by its name or its network's, with fields changed: `recipe("resnet", lr=0.05, epochs=30)`.

    Args:
        name: one of `list_recipes`, or of a network.
        fields: of the recipe, without their groups.

    Raises:
        InputError: no such network or field, or a value that is not valid.
    """
    return with_fields(choose_recipe(name, fields={}), **fields)


def list_recipes() -> list[str]:
    """The names of all recipes."""
    return list(RECIPES)


def list_models() -> list[str]:
    """The names of all networks of this package; "timm:NAME" is any of timm's."""
    return list(MODELS)


def finish(job: "Job", shown: Display, *, quiet: bool) -> Run:
    """Train and test what a job asks for; gives its run."""
    from cifar.pipeline.job import Stopped
    from cifar.pipeline.start import prepared, run_job
    from cifar.training.launch import refuse_several

    refuse_several("A training from Python")
    with prepared(job) as ready:
        dataset = opened(job.data, quiet=quiet)
        try:
            result = run_job(ready, dataset, display=shown)
        except Stopped:
            again = f"Stopped; everything is saved. Go on with cifar.resume({str(job.folder)!r})."
            raise KeyboardInterrupt(again) from None
        if job.cross_validate and not quiet:
            display.crossval(result, job.folder)
        return Run(job.folder, trust_code=ready.trust_code)


def opened(data: str, *, quiet: bool) -> "Dataset":
    """The data set, fetched if it is not in the cache; see `open_dataset`."""
    from cifar.data.cifar10 import open_dataset

    return open_dataset(data) if quiet else open_data(data)


@contextlib.contextmanager
def showing(*, quiet: bool) -> Iterator[Display]:
    """The display that a call tells its progress, and remarks as sentences."""
    if quiet:
        yield Display()
        return
    with warnings.catch_warnings(), display.TerminalDisplay() as shown:
        warnings.showwarning = show_remark
        yield shown


def as_typed(function: Callable[..., Any], given: Mapping[str, Any]) -> str:
    """A call as Python, for the record: arguments that are not the default's; functions by their names."""
    arguments = []
    for name, parameter in inspect.signature(function).parameters.items():
        value = given[name]
        if value is parameter.default or value == parameter.default:
            continue
        if isinstance(value, Recipe):
            text = f"recipe({value.model!r}, …)"
        elif callable(value):
            text = value.__name__
        else:
            value = value.folder if isinstance(value, Run) else value
            text = repr(str(value) if isinstance(value, Path) else value)
        arguments.append(text if name == "model" else f"{name}={text}")
    return hidden(f"cifar.{function.__name__}({', '.join(arguments)})")
