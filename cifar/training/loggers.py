"""Where an epoch's row goes besides metrics.csv: wandb and TensorBoard, both optional, both off by default."""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cifar.errors import WorldError
from cifar.recipes import Recipe, to_mapping
from cifar.runs import METRICS, read_metrics

T = TypeVar("T")
R = TypeVar("R")

WANDB_SECONDS = 30.0  # to wait for its server before the training begins without it
SECONDS = 60.0  # to wait for any action of a logger
# Not the command, which may hold a password, nor the address of a git remote, nor what is printed.
NO_SECRETS: dict[str, Any] = {"x_disable_meta": True, "disable_git": True, "save_code": False, "console": "off"}


class Logger(Protocol):
    """What the loop asks of a logger."""

    def log(self, row: Mapping[str, float]) -> None:
        """Take the row of one epoch, as it stands in metrics.csv."""

    def result(self, figures: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        """Take the figures of the test evaluation by name, and the PNG files of the run's pictures."""

    def close(self) -> None:
        """Flush everything; called once, also when training was stopped."""


class WandbLogger:
    """Weights & Biases, into the run folder; offline without a login, so that a missing one never stops a training."""

    def __init__(self, folder: Path, *, recipe: Recipe, run_id: str, say: Callable[[str], None]) -> None:
        try:
            import wandb
        except ImportError:
            raise WorldError('the package wandb is absent: pip install "cifar[wandb]"') from None
        mode = os.environ.get("WANDB_MODE")
        if mode is None and not wandb.login(prompt=False, verify=False):
            say("wandb has no login here, so it records offline: `wandb login`, then `wandb sync` sends the run.")
            mode = "offline"
        parent = f"{folder.parent.name}/" if recipe.holdout.num_folds else ""
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "cifar"),
            name=f"{parent}{folder.name}",
            id=run_id,
            resume="allow",
            dir=folder,
            mode=mode,  # type: ignore[arg-type]
            config=to_mapping(recipe),
            settings=wandb.Settings(silent=True, init_timeout=WANDB_SECONDS, finish_timeout=SECONDS, **NO_SECRETS),
        )

    def log(self, row: Mapping[str, float]) -> None:
        self._run.log(dict(row), step=int(row["epoch"]))

    def result(self, figures: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        import wandb

        self._run.summary.update(dict(figures))
        self._run.log({name: wandb.Image(str(path)) for name, path in pictures.items()}, step=int(figures["epochs"]))

    def close(self) -> None:
        self._run.finish()


class TensorBoardLogger:
    """TensorBoard event files in RUN/tensorboard; look at them with `tensorboard --logdir RUN`.

    Args:
        folder: of the run.
        rows: of the epochs before; they replace what was logged of them, since a killed run may have logged another
            epoch than it kept.
    """

    def __init__(self, folder: Path, rows: Sequence[Mapping[str, float]] = ()) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise WorldError('the package tensorboard is absent: pip install "cifar[tensorboard]"') from None
        self._writer = SummaryWriter(folder / "tensorboard", purge_step=1)
        for row in rows:
            self.log(row)

    def log(self, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, int(row["epoch"]))

    def result(self, figures: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        import numpy as np
        from PIL import Image

        step = int(figures["epochs"])
        for name, value in figures.items():
            if name != "epochs":
                self._writer.add_scalar(name, value, step)
        for name, path in pictures.items():
            with Image.open(path) as picture:
                self._writer.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


@dataclass
class Tolerated:
    """A logger whose failure never ends a training: it is reported once, and the logger is not used again.

    Attributes:
        name: what a person calls it.
        logger: None from its failure on.
        say: gets the sentence.
    """

    name: str
    logger: Logger | None
    say: Callable[[str], None]

    def log(self, row: Mapping[str, float]) -> None:
        self.attempt(lambda logger: logger.log(row))

    def result(self, figures: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        self.attempt(lambda logger: logger.result(figures, pictures))

    def close(self) -> None:
        self.attempt(lambda logger: logger.close())

    def attempt(self, action: Callable[[Logger], None]) -> None:
        """Act on the logger while there is one."""
        if self.logger is None:
            return
        try:
            act_in_time(action, self.logger)
        except Exception as error:  # of the network, the disk, the service: none is worth a training
            self.logger = None
            self.say(given_up(self.name, error))


def open_loggers(
    folder: Path, *, recipe: Recipe, wandb_id: str, tensorboard: bool, say: Callable[[str], None]
) -> list[Logger]:
    """The loggers that were asked for; one that cannot be opened is left out with a sentence, and training goes on.

    Args:
        folder: of the run.
        recipe: for wandb's configuration.
        wandb_id: of the run there, so that a resumed training goes on in it; "" is no wandb.
        tensorboard: write event files.
        say: gets the sentences.
    """
    rows = read_metrics(folder) if (folder / METRICS).exists() else []
    openers: dict[str, Callable[[], Logger]] = {}
    if wandb_id:
        openers["wandb"] = lambda: WandbLogger(folder, recipe=recipe, run_id=wandb_id, say=say)
    if tensorboard:
        openers["TensorBoard"] = lambda: TensorBoardLogger(folder, rows)
    loggers: list[Logger] = []
    for name, open_logger in openers.items():
        try:
            loggers.append(Tolerated(name, act_in_time(lambda opener: opener(), open_logger), say))
        except Exception as error:
            say(given_up(name, error))
    return loggers


def act_in_time(action: Callable[[T], R], subject: T) -> R:
    """What an action gives, within SECONDS; one that takes longer is left to itself.

    Raises:
        TimeoutError: it takes longer.
        Exception: as the action's.
    """
    results: list[R] = []
    errors: list[BaseException] = []

    def act() -> None:
        try:
            results.append(action(subject))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(SECONDS)
    if thread.is_alive():
        raise TimeoutError(f"no answer in {SECONDS:g} seconds")
    if errors:
        raise errors[0] if isinstance(errors[0], Exception) else RuntimeError(str(errors[0]))
    return results[0]


def given_up(name: str, error: Exception) -> str:
    """The sentence about a logger that failed."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"The run goes on without {name}: {reason.rstrip('.')}. metrics.csv has every epoch."
