"""What the terminal shows while work goes on, for cli.py: live bars in a terminal, a plain line an epoch elsewhere."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

if TYPE_CHECKING:
    from cifar.training.loop import Tick

stderr = Console(stderr=True, highlight=False, soft_wrap=True)


def say(sentence: str) -> None:
    """A remark on standard error, where it does not mix with results."""
    stderr.print(sentence, markup=False)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss, or m:ss under an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def byte_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar of bytes, speed and time left; yields what takes (label, bytes done, bytes in all)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def update(label: str, done: int, total: int) -> None:
            if label not in tasks:
                tasks[label] = bars.add_task(label)
            bars.update(tasks[label], completed=done, total=total or None)

        yield update


@contextmanager
def image_progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of images; yields what takes (images done, images in all)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as bars:
        task = bars.add_task(label)
        yield lambda done, total: bars.update(task, completed=done, total=total)


@dataclass(frozen=True)
class TrainingDisplay:
    """The live bar of a training and its lines an epoch; `log` and `close` make it a logger of the loop."""

    bars: Progress
    task: TaskID
    epochs: int
    best: list[float]

    def tick(self, tick: "Tick") -> None:
        """Move the bar."""
        text = (
            f"epoch {tick.epoch}/{tick.epochs}  loss {tick.loss:.4f}  train {tick.accuracy:.2%}"
            f"{f'  validation {self.best[-1]:.2%}' if self.best else ''}  {tick.images_per_second:,.0f} images/s"
            f"  {clock(tick.seconds_left)} left"
        )
        self.bars.update(self.task, completed=tick.step, total=tick.steps, description=text)

    def log(self, row: Mapping[str, float]) -> None:
        """Print the line of a finished epoch."""
        accuracy = row["validation_accuracy"]
        mark = " (best)" if accuracy > max(self.best, default=-1.0) else ""
        if accuracy == accuracy:
            self.best.append(accuracy)
        validation = f"validation {accuracy:.2%}{mark}" if accuracy == accuracy else "no validation"
        say(
            f"epoch {row['epoch']:.0f}/{self.epochs}  loss {row['train_loss']:.4f}  train {row['train_accuracy']:.2%}"
            f"  {validation}  lr {row['learning_rate']:.3g}  {row['images_per_second']:,.0f} images/s"
            f"  {clock(row['seconds'])}"
        )

    def close(self) -> None:
        """Nothing is held open."""


@contextmanager
def training_display(epochs: int) -> Iterator[TrainingDisplay]:
    """The display of one training; outside a terminal the bar is silent and only the lines are printed."""
    with Progress(
        BarColumn(), TextColumn("{task.description}"), console=stderr, transient=True, disable=not stderr.is_terminal
    ) as bars:
        yield TrainingDisplay(bars, bars.add_task("starting"), epochs, [])
