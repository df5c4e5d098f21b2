"""Where an epoch's row goes besides metrics.csv: wandb and TensorBoard, both optional, both off by default."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from cifar.errors import WorldError
from cifar.recipes import Recipe


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
            raise WorldError('The package wandb is absent: pip install "cifar[wandb]".') from None
        import dataclasses

        mode = os.environ.get("WANDB_MODE")
        if mode is None and not wandb.api.api_key:
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
            settings=wandb.Settings(silent=True),
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
            raise WorldError('The package tensorboard is absent: pip install "cifar[tensorboard]".') from None
        self._writer = SummaryWriter(folder / "tensorboard")

    def log(self, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, int(row["epoch"]))

    def close(self) -> None:
        self._writer.close()


def open_loggers(
    folder: Path, *, recipe: Recipe, wandb: bool, tensorboard: bool, say: Callable[[str], None]
) -> list[Logger]:
    """The loggers that were asked for; one whose package is absent is left out with a sentence, training goes on."""
    loggers: list[Logger] = []
    try:
        if wandb:
            loggers.append(WandbLogger(folder, recipe=recipe, say=say))
        if tensorboard:
            loggers.append(TensorBoardLogger(folder))
    except WorldError as error:
        say(f"Training without this logger: {error}")
    return loggers
