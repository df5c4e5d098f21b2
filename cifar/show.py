"""What the terminal shows, for the verbs: live bars (a plain line an epoch where there is no terminal), results."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from rich.table import Column, Table

if TYPE_CHECKING:
    from cifar.bench.suite import Line
    from cifar.data.cifar10 import Dataset, Split
    from cifar.training.loop import Tick

# Without emoji, since a file may be called :cat:.png.
stdout = Console(highlight=False, soft_wrap=True, emoji=False)
stderr = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def say(sentence: str) -> None:
    """A remark on standard error, where it does not mix with results."""
    stderr.print(sentence, markup=False)


def is_live() -> bool:
    """Whether bars may move on standard error. FORCE_COLOR, as notebooks set it, makes no terminal of a pipe."""
    return sys.stderr.isatty()


def result_text(text: str) -> None:
    """A result on standard output, as it is: nothing in it is markup, nothing wraps."""
    stdout.print(text, markup=False)


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
    with Progress(*columns, console=stderr, transient=True, disable=not is_live()) as bars:
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
    with Progress(*columns, console=stderr, transient=True, disable=not is_live()) as bars:
        tasks: list[TaskID] = []  # the bar appears with the first images

        def update(done: int, total: int) -> None:
            if not tasks:
                tasks.append(bars.add_task(label))
            bars.update(tasks[0], completed=done, total=total)

        yield update


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
        BarColumn(), TextColumn("{task.description}"), console=stderr, transient=True, disable=not is_live()
    ) as bars:
        yield TrainingDisplay(bars, bars.add_task("starting"), epochs, [])


def result(summary: Mapping[str, Any], folder: Path) -> None:
    """Print the line that a finished run ends with."""
    result_text(result_line(summary, folder))


def fold_result(fold: int, summary: Mapping[str, Any], folder: Path) -> None:
    """Print the result of one fold, counted from 1."""
    result_text(f"fold {fold + 1}: {result_line(summary, folder)}")


def result_line(summary: Mapping[str, Any], folder: Path) -> str:
    """What a run gave: test accuracy with interval, how its weights were chosen, seconds, folder."""
    validation = summary["validation_accuracy"]
    chosen = "last epoch" if validation is None else f"best on validation, {validation:.2%}"
    return (
        f"{sample_prefix(summary)}{summary['model']}: test accuracy {summary['test_accuracy']:.2%}, "
        f"95 % interval {interval(summary['test_interval'])}, "
        f"epoch {summary['best_epoch']} of {summary['epochs']} ({chosen}), "
        f"{clock(summary['seconds'])} of training; {folder}"
    )


def crossval(result: Mapping[str, Any], folder: Path) -> None:
    """Print mean, standard deviation and interval over the folds, and their ensemble, named as such."""
    prefix = sample_prefix(result)
    for split in ("validation", "test"):
        spread = result[split]
        result_text(
            f"{prefix}{split}: mean of {result['num_folds']} folds {spread['mean']:.2%}, standard deviation "
            f"{100 * spread['std']:.2f} points, 95 % interval {interval(spread['interval'])}"
        )
    ensemble = result["test_of_averaged_probabilities"]
    result_text(
        f"{prefix}test, averaged probabilities of the folds (an ensemble, not their mean): {ensemble['accuracy']:.2%}, "
        f"95 % interval {interval(ensemble['interval'])}; {folder}"
    )


def data(dataset: "Dataset", splits: Mapping[str, "Split"]) -> None:
    """Print where a data set comes from, its checksum, counts a class and pixel statistics."""
    from cifar.data.split import CLASSES
    from cifar.models.layers import pixel_statistics

    result_text(f"{dataset.name}, from {dataset.source}\nfolder: {dataset.folder}\nsha256: {dataset.sha256}")
    counts = Table("class", *(Column(f"{part} images", justify="right") for part in splits))
    per_part = [split.labels.bincount(minlength=len(CLASSES)).tolist() for split in splits.values()]
    for name, *numbers in zip(CLASSES, *per_part, strict=True):
        counts.add_row(name, *(f"{number:,}" for number in numbers))
    counts.add_row("all", *(f"{sum(numbers):,}" for numbers in per_part))
    stdout.print(counts)
    pixels = Table(
        "pixels of the training images", *(Column(name, justify="right") for name in ("red", "green", "blue"))
    )
    for name, values in zip(("mean", "standard deviation"), pixel_statistics(splits["train"].images), strict=True):
        pixels.add_row(name, *(f"{value:.8f}" for value in values.tolist()))
    stdout.print(pixels)


def bench(lines: "Sequence[Line]") -> None:
    """Print measured lines: median, range, the alternative's median, the ratio and the share of the machine's peak."""
    rows: list[tuple[str, ...]] = [("", "median", "lowest", "highest", "other", "ratio", "peak")]
    for line in lines:
        other = figure(line.other.median) if line.other else ""
        ratio = f"{line.ratio:.2f} ×" if line.ratio else ""
        share = f"{line.share:.0%}" if line.share else ""
        ours = (figure(value) for value in (line.ours.median, line.ours.low, line.ours.high))
        rows.append((f"{line.name}, {line.unit}", *ours, other, ratio, share))
    for name, *cells in rows:  # a table of rich's would cut figures off where it is piped
        result_text(f"{name:<32}" + "".join(f"{cell:>9}" for cell in cells))
    for against in dict.fromkeys(line.against for line in lines if line.against):
        names = ", ".join(line.name for line in lines if line.against == against)
        result_text(f"other: {against} ({names})")


def figure(value: float) -> str:
    """A number to read: three figures at least, thousands apart."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def interval(ends: Sequence[float]) -> str:
    """An interval of fractions in per cent."""
    return f"{ends[0]:.2%} to {ends[1]:.2%}"


def sample_prefix(record: Mapping[str, Any]) -> str:
    """What a result on the bundled sample begins with, in capitals; nothing for the whole data set."""
    return f"{record['data']}: " if record["data"].startswith("SAMPLE") else ""
