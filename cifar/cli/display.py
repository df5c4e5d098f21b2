"""What the terminal shows: live bars (a plain line per epoch where there is no terminal), results, tables."""

import errno
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column, Table

from cifar.cli.secrets import hidden
from cifar.cli.terminal import STOPS, Ended, drop_results, exit_code, once
from cifar.training.display import Display, Facts, Tick

if TYPE_CHECKING:
    from cifar.bench.suite import Line
    from cifar.data.cifar10 import Dataset, Split


WIDEST = 1_000  # columns, where nothing limits a line
BAR = (8, 40)  # columns of a bar: fewest, most
PIPED_SECONDS = 20.0  # between two lines of progress in a pipe, which has one for every tenth of an epoch at most


class Printer(Console):
    """Rich's console; a reader that has gone is for whoever prints, not the end of the program."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, "its reader has gone")


# Without emoji, since a file may be called :cat:.png.
stdout = Printer(highlight=False, soft_wrap=True, emoji=False)
stderr = Printer(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def be_silent() -> None:
    """Print nothing from here on: in a training of several processes only the first one prints."""
    stdout.quiet = stderr.quiet = True


def speak() -> None:
    """Print again."""
    stdout.quiet = stderr.quiet = False


def is_silent() -> bool:
    """Whether nothing is printed."""
    return stderr.quiet


def say(sentence: str) -> None:
    """Print a remark to standard error, where it does not mix with results, on one line."""
    stderr.print(printable(hidden(sentence)), markup=False)


def printable(text: str) -> str:
    """Text with everything escaped that a terminal would interpret or cannot show: names can hold anything."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def is_live() -> bool:
    """Whether bars may move on standard error. FORCE_COLOR, as notebooks set it, makes no terminal of a pipe."""
    return sys.stderr.isatty() and not is_silent()


def result_text(text: str) -> None:
    """Print a result to standard output as it is: nothing in it is markup, nothing wraps."""
    stdout.print(text, markup=False)


def fitted(parts: Sequence[tuple[int, str]], width: int) -> str:
    """As many parts of a line as fit, two spaces apart.

    Args:
        parts: (rank, text) each, in their order on the line; of those that do not fit, the highest rank goes first.
        width: columns.
    """
    kept = sorted(parts)
    while len(kept) > 1 and sum(len(text) + 2 for _, text in kept) - 2 > width:
        kept.pop()
    return "  ".join(text for rank, text in parts if (rank, text) in kept)


def line_width() -> int:
    """Columns that a line of progress may have: those of the terminal, or any number in a pipe."""
    return stderr.width if is_live() else WIDEST


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss, or m:ss under an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def byte_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar of bytes, speed and time left; yields a function of (label, bytes done, bytes in all)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with bars(*columns) as progress:
        tasks: dict[str, TaskID] = {}

        def update(label: str, done: int, total: int) -> None:
            if label not in tasks:
                tasks[label] = progress.add_task(label)
            progress.update(tasks[label], completed=done, total=total or None)

        yield update


@contextmanager
def image_progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar of images; yields a function of (images done, images in all)."""
    with TerminalDisplay() as display:
        yield lambda done, total: display.images(label, done, total)


def bars(*columns: str | ProgressColumn) -> Progress:
    """Bars on standard error that vanish when they end; none outside a terminal."""
    return Progress(*columns, console=stderr, transient=True, disable=not is_live())


class TerminalDisplay(Display):
    """The display of `cifar train` and `cifar evaluate`: a live bar, a line per epoch, results; and Ctrl-C.

    While a training runs, the first Ctrl-C, TERM or HUP asks it to stop after its step, and a second one ends the
    process. Outside a training each ends the process at once. Use it as a context, which restores what it changed.

    Attributes:
        exit_code: of the program, where the training was asked to stop.
    """

    def __init__(self) -> None:
        self._bars: Progress | None = None
        self._task = TaskID(0)
        self._label = ""
        self._epochs = 0
        self._best_accuracy = -1.0
        self._bar = BarColumn()
        self._last_line, self._tenth = 0.0, 0
        self._stop_asked = False
        self.exit_code = exit_code(KeyboardInterrupt())
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "TerminalDisplay":
        return self

    def __exit__(self, *_: object) -> None:
        self.end_training()
        self._hide()

    def _show(self, *columns: str | ProgressColumn, description: str) -> None:
        self._hide()
        self._bars = bars(*columns)
        self._bars.start()
        self._task = self._bars.add_task(description)

    def _hide(self) -> None:
        if self._bars:
            self._bars.stop()
        self._bars, self._label = None, ""

    def _ask_to_stop(self, number: int, _frame: object) -> None:
        if self._stop_asked:
            raise Ended(number)
        self._stop_asked, self.exit_code = True, exit_code(Ended(number))
        say("Stopping after this step …")

    def say(self, sentence: str) -> None:
        say(sentence)

    def should_stop(self) -> bool:
        return self._stop_asked

    def start_training(self, epochs: int, *, best_accuracy: float, facts: Facts) -> None:
        validation = f"{facts.num_validation:,}" if facts.num_validation else "no"
        say(
            f"{facts.parameters:,} parameters; {facts.num_training:,} training and {validation} validation images; "
            f"{facts.device}, {facts.precision}"
        )
        self._epochs, self._best_accuracy, self._stop_asked = epochs, best_accuracy, False
        self._last_line, self._tenth = time.monotonic(), 0
        self._bar = BarColumn(BAR[0])
        self._show(self._bar, TextColumn("{task.description}"), description="starting")
        heeded = [number for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup ignores one
        if threading.current_thread() is not threading.main_thread():
            heeded = []  # another thread gets no signals, and may not ask for them
        ask_to_stop = once(self._ask_to_stop)
        self._handlers = {number: signal.signal(number, ask_to_stop) for number in heeded}

    def tick(self, tick: Tick) -> None:
        parts = [
            (0, self._counted(tick.epoch)),
            (4, f"loss {tick.loss:.4f}"),
            (2, f"train {tick.accuracy:.2%}"),
            (3, f"best validation {self._best_accuracy:.2%}"),
            (5, f"{tick.images_per_second:,.0f} images/s"),
            (1, f"{clock(tick.seconds_left)} left"),
        ]
        if self._best_accuracy < 0:
            del parts[3]
        if is_live():
            assert self._bars, "a training has begun"
            text = fitted(parts, line_width() - BAR[0] - 2)
            self._bar.bar_width = min(BAR[1], line_width() - len(text) - 2)
            self._bars.update(self._task, completed=tick.step, total=tick.steps, description=text)
            return
        tenth, now = 10 * tick.step // tick.steps, time.monotonic()
        if self._tenth < tenth < 10 and now - self._last_line > PIPED_SECONDS:
            say(fitted([(0, f"{tenth}0% of"), *parts], WIDEST))
            self._last_line, self._tenth = now, tenth

    def _counted(self, epoch: float) -> str:
        return f"epoch {epoch:{len(str(self._epochs))}.0f}/{self._epochs}"

    def end_epoch(self, row: Mapping[str, float], *, is_best: bool) -> None:
        accuracy = row["validation_accuracy"]
        validation = ""
        if accuracy == accuracy:
            validation = f"validation {accuracy:.2%} {'(best)' if is_best else '      '}"
            self._best_accuracy = accuracy if is_best else self._best_accuracy
        parts = [
            (0, self._counted(row["epoch"])),
            (4, f"loss {row['train_loss']:.4f}"),
            (2, f"train {row['train_accuracy']:6.2%}"),
            (1, validation),
            (6, f"lr {row['learning_rate']:<8.3g}"),
            (5, f"{row['images_per_second']:6,.0f} images/s"),
            (3, f"{clock(row['seconds']):>5}"),
        ]
        say(fitted([part for part in parts if part[1]], line_width()).rstrip())
        self._last_line, self._tenth = time.monotonic(), 0

    def end_training(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
        self._hide()

    def images(self, label: str, done: int, total: int) -> None:
        if label != self._label:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._show(*columns, description=label)
            self._label = label
        assert self._bars, "shown above"
        self._bars.update(self._task, completed=done, total=total)
        if done == total:
            self._hide()

    def start_fold(self, fold: int, num_folds: int) -> None:
        say(f"fold {fold + 1} of {num_folds}")

    def result(self, summary: Mapping[str, Any], folder: Path, *, fold: int | None = None) -> None:
        prefix = "" if fold is None else f"fold {fold + 1}: "
        try:
            result_text(prefix + result_line(summary, folder))
        except OSError as error:  # it is written, and its pictures are still to be drawn
            drop_results()
            say(f"The result cannot be printed ({error.strerror or error}): read {folder}/summary.json.")


def result_line(summary: Mapping[str, Any], folder: Path) -> str:
    """The two lines that a run ends with: test accuracy with interval; how its weights were chosen, time, folder.

    Args:
        summary: of a tested run.
        folder: the run's.
    """
    validation = summary["validation_accuracy"]
    chosen = "the last" if validation is None else f"the best on validation, {validation:.2%}"
    views, with_tta = summary["recipe"].get("views", "none"), summary.get("validation_accuracy_tta")
    if with_tta is not None:
        chosen += f", with TTA {with_tta:.2%}"
    tta = "" if views == "none" else f" (TTA: {views})"
    return (
        f"{sample_prefix(summary)}{summary['model']}: test accuracy {summary['test_accuracy']:.2%}{tta}, "
        f"95 % interval {interval(summary['test_interval'])}\n"
        f"weights of epoch {summary['best_epoch']} of {summary['epochs']} ({chosen}), "
        f"{clock(summary['seconds'])} of training; {folder}"
    )


def next_commands(folder: Path, *, folds: int = 0) -> None:
    """Say what to do with a run or a cross-validation now.

    Args:
        folder: its folder.
        folds: of a cross-validation; 0 is a run.
    """
    run = shlex.quote(str(folder))
    one = shlex.quote(str(folder / "fold-0")) if folds else run
    say("next:")
    say(f"  cifar report {run}")
    say(f"  cifar predict {one} photo.jpg")
    say(f"  cifar demo {one}")


def crossval(result: Mapping[str, Any], folder: Path) -> None:
    """Print mean, standard deviation and interval over the folds, and their ensemble, named as such.

    Args:
        result: what crossval.json holds.
        folder: the cross-validation's.
    """
    prefix = sample_prefix(result)
    for split in ("validation", "test"):
        spread = result[split]
        result_text(
            f"{prefix}{split}: mean of {result['num_folds']} folds {spread['mean']:.2%}, standard deviation "
            f"{100 * spread['std']:.2f} points, Student's interval over the folds {interval(spread['interval'])}"
        )
    ensemble = result["test_of_averaged_probabilities"]
    result_text(
        f"{prefix}test, averaged probabilities of the folds (an ensemble, not their mean): {ensemble['accuracy']:.2%}, "
        f"95 % interval {interval(ensemble['interval'])}; {folder}"
    )


def data(dataset: "Dataset", splits: "Mapping[str, Split]") -> None:
    """Print where a data set comes from, its checksum, counts per class and pixel statistics.

    Args:
        dataset: CIFAR-10 or the sample.
        splits: train and test, by name.
    """
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
    """Print measurements: median, range, the alternative's median, the ratio and the fraction of the machine's peak."""
    rows: list[tuple[str, ...]] = [("", "median", "lowest", "highest", "other", "ratio", "peak")]
    for line in lines:
        other = figure(line.other.median) if line.other else ""
        ratio = f"{line.ratio:.2f} ×" if line.ratio else ""
        peak_fraction = f"{line.peak_fraction:.0%}" if line.peak_fraction else ""
        ours = (figure(value) for value in (line.ours.median, line.ours.low, line.ours.high))
        rows.append((f"{line.name}, {line.unit}", *ours, other, ratio, peak_fraction))
    for name, *cells in rows:  # a table of rich's would cut figures off where it is piped
        result_text(f"{name:<32}" + "".join(f"{cell:>9}" for cell in cells))
    for against in dict.fromkeys(line.against for line in lines if line.against):
        names = ", ".join(line.name for line in lines if line.against == against)
        result_text(f"other: {against} ({names})")


def figure(value: float) -> str:
    """A number to read: at least three significant digits, with thousands separators."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def interval(ends: Sequence[float]) -> str:
    """An interval of fractions in per cent."""
    return f"{ends[0]:.2%} to {ends[1]:.2%}"


def sample_prefix(record: Mapping[str, Any]) -> str:
    """What a result on the bundled sample begins with, in capitals; nothing for the whole data set."""
    return f"{record['data']}: " if record["data"].startswith("SAMPLE") else ""
