"""Where an epoch's row goes besides metrics.csv: wandb and TensorBoard, both optional, both off by default."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cifar.errors import WorldError
from cifar.recipes import Recipe

WANDB_SECONDS = 30.0  # for its server to answer, before the training begins without it


class Logger(Protocol):
    """What the loop asks of a logger."""

    def log(self, row: Mapping[str, float]) -> None:
        """Take the row of one epoch, as it stands in metrics.csv."""

    def close(self) -> None:
        """Flush everything; called once, also when training was stopped."""


class WandbLogger:
    """Weights & Biases, into the run folder; offline without a login, so that a missing one never stops a training."""

    def __init__(self, folder: Path, *, recipe: Recipe, say: Callable[[str], None]) -> None:
        try:
            import wandb
        except ImportError:
            raise WorldError('the package wandb is absent: pip install "cifar[wandb]"') from None
        mode = os.environ.get("WANDB_MODE")
        if mode is None and not wandb.login(prompt=False, verify=False):
            say("wandb has no login here, so it records offline: `wandb login`, then `wandb sync` sends the run.")
            mode = "offline"
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "cifar"),
            name=folder.name,
            # The same name finds the same run again, so that a resumed training goes on in it.
            id=folder.resolve().name,
            resume="allow",
            dir=folder,
            mode=mode,  # type: ignore[arg-type]
            config=dataclasses.asdict(recipe),
            settings=wandb.Settings(silent=True, init_timeout=WANDB_SECONDS),
        )

    def log(self, row: Mapping[str, float]) -> None:
        self._run.log(dict(row), step=int(row["epoch"]))

    def close(self) -> None:
        self._run.finish()


class TensorBoardLogger:
    """TensorBoard event files in RUN/tensorboard; look at them with `tensorboard --logdir RUN`."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise WorldError('the package tensorboard is absent: pip install "cifar[tensorboard]"') from None
        self._writer = SummaryWriter(folder / "tensorboard")

    def log(self, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, int(row["epoch"]))

    def close(self) -> None:
        self._writer.close()


@dataclass
class Tolerated:
    """A logger whose failure never ends a training: it is told once, and then done without.

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

    def close(self) -> None:
        self.attempt(lambda logger: logger.close())

    def attempt(self, action: Callable[[Logger], None]) -> None:
        """Act on the logger while there is one."""
        if self.logger is None:
            return
        try:
            action(self.logger)
        except Exception as error:  # of the network, the disk, the service: none is worth a training
            self.logger = None
            self.say(given_up(self.name, error))


def open_loggers(
    folder: Path, *, recipe: Recipe, wandb: bool, tensorboard: bool, say: Callable[[str], None]
) -> list[Logger]:
    """The loggers that were asked for; one that cannot be had is left out with a sentence, training goes on."""
    wanted: dict[str, Callable[[], Logger]] = {}
    if wandb:
        wanted["wandb"] = lambda: WandbLogger(folder, recipe=recipe, say=say)
    if tensorboard:
        wanted["TensorBoard"] = lambda: TensorBoardLogger(folder)
    loggers: list[Logger] = []
    for name, open_one in wanted.items():
        try:
            loggers.append(Tolerated(name, open_one(), say))
        except Exception as error:
            say(given_up(name, error))
    return loggers


def given_up(name: str, error: Exception) -> str:
    """What a person is told of a logger that failed."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"Training goes on without {name}: {reason.rstrip('.')}. metrics.csv has every epoch."
