"""What a training tells whoever watches it: one object with plain methods. This one is silent and never stops."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Tick:
    """Where a training stands: loss and accuracy are means over the epoch so far, time left is in seconds."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float
    images_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class Facts:
    """What is trained on what, and how it is computed: device as PyTorch names it, precision fp32, bf16 or fp16."""

    parameters: int
    num_training: int
    num_validation: int
    device: str
    precision: str


class Display:
    """The command line's display (`cifar.cli.display`) overrides what it shows."""

    def say(self, sentence: str) -> None:
        """Take a remark."""

    def should_stop(self) -> bool:
        """Whether the training is to stop after this step; asked after every one."""
        return False

    def start_training(self, epochs: int, *, best_accuracy: float, facts: Facts) -> None:
        """A training begins or is resumed.

        Args:
            epochs: in all.
            best_accuracy: on validation so far, a fraction; negative before the first epoch.
            facts: of the training.
        """

    def tick(self, tick: Tick) -> None:
        """Take where the training stands, a few times per second."""

    def end_epoch(self, row: Mapping[str, float], *, is_best: bool) -> None:
        """Take the row of metrics.csv of a finished epoch, and whether its weights are the best so far."""

    def end_training(self) -> None:
        """No step follows: the training is finished, stopped or has failed."""

    def images(self, label: str, done: int, total: int) -> None:
        """Take how many images of a prediction are done."""

    def start_fold(self, fold: int, num_folds: int) -> None:
        """A fold of a cross-validation begins; folds count from 0."""

    def result(self, summary: Mapping[str, Any], folder: Path, *, fold: int | None = None) -> None:
        """Take the summary of a tested run, before its pictures are drawn."""
