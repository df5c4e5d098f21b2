"""The terminal's display: what "(best)" and the bar say, and what Ctrl-C does when."""

import io
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text

from cifar.cli import display, terminal
from cifar.cli.display import TerminalDisplay
from cifar.cli.terminal import Ended, exit_code
from cifar.training.display import Facts, Tick

FACTS = Facts(269_722, 45_000, 5_000, "cpu", "fp32")
TICK = Tick(epoch=3, epochs=9, step=1, steps=4, loss=1.0, accuracy=0.5, images_per_second=100, seconds_left=61)


def row(epoch: int, accuracy: float) -> dict[str, float]:
    return {
        "epoch": epoch, "train_loss": 1.0, "train_accuracy": 0.5, "validation_accuracy": accuracy,
        "learning_rate": 0.1, "images_per_second": 100.0, "seconds": 60.0,
    }  # fmt: skip


def bar_text(shown: TerminalDisplay, monkeypatch: pytest.MonkeyPatch) -> str:
    texts: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(display, "is_live", lambda: True)
        patch.setattr(display, "stderr", display.Printer(stderr=True, width=120))
        patch.setattr("rich.progress.Progress.update", lambda *_, **options: texts.append(options["description"]))
        shown.tick(TICK)
    return texts[0]


def test_bar_shows_the_best_accuracy_and_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    with TerminalDisplay() as shown:
        shown.start_training(9, best_accuracy=-1.0, facts=FACTS)
        assert "best" not in bar_text(shown, monkeypatch)
        shown.end_epoch(row(1, 0.6), is_best=True)
        shown.end_epoch(row(2, 0.4), is_best=False)
        text = bar_text(shown, monkeypatch)
    assert "best validation 60.00%" in text
    assert "1:01 left" in text


def test_best_of_a_resumed_training_is_the_one_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with TerminalDisplay() as shown:
        shown.start_training(9, best_accuracy=0.7, facts=FACTS)
        assert "best validation 70.00%" in bar_text(shown, monkeypatch)
        shown.end_epoch(row(5, 0.6), is_best=False)
        shown.end_epoch(row(6, float("nan")), is_best=True)
    header, first, second = capsys.readouterr().err.splitlines()
    assert header == "269,722 parameters; 45,000 training and 5,000 validation images; cpu, fp32"
    assert first == (
        "epoch 5/9  loss 1.0000  train 50.00%  validation 60.00%         lr 0.1          100 images/s   1:00"
    )
    assert "(best)" not in first + second
    assert "validation" not in second


LONGEST = Tick(
    epoch=100, epochs=100, step=3, steps=4, loss=11.5, accuracy=1.0, images_per_second=123_456, seconds_left=360_000
)


@pytest.mark.parametrize("width", range(20, 160))
def test_lines_of_progress_fit_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The live line too, with a bar, and it is there in every epoch; whatever is left out, the epoch never is."""
    said: list[str] = []
    stream = io.StringIO()
    monkeypatch.setattr(display, "is_live", lambda: True)
    monkeypatch.setattr(display, "stderr", display.Printer(file=stream, width=width, force_terminal=True))
    with TerminalDisplay() as shown:
        shown.start_training(100, best_accuracy=-1.0, facts=FACTS)
        monkeypatch.setattr(display, "say", said.append)
        for epoch, best in ((1, True), (100, False)):
            shown.end_epoch(row(epoch, 0.6) | {"seconds": 360_000, "images_per_second": 123_456}, is_best=best)
            shown.tick(LONGEST)
            assert shown._bars
            stream.truncate(0)
            shown._bars.refresh()
            live = Text.from_ansi(stream.getvalue()).plain.strip()
            assert "epoch 100/100" in live or width < 30
            assert "━" in live
            assert "…" not in live or width < 30
            assert len(live) <= width
    assert all(len(line) <= max(width, len("epoch 100/100")) for line in said)
    assert all(line.startswith(("epoch   1/100", "epoch 100/100")) for line in said)
    if width >= 80:
        assert all("validation 60.00%" in line and "train 50.00%" in line for line in said)


def test_a_pipe_sees_progress_a_few_times_an_epoch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At tenths of an epoch, but no more often than every 20 seconds; a short epoch has its own line only."""
    now = 0.0
    monkeypatch.setattr(display, "is_live", lambda: False)
    monkeypatch.setattr(display.time, "monotonic", lambda: now)
    with TerminalDisplay() as shown:
        shown.start_training(2, best_accuracy=-1.0, facts=FACTS)
        for seconds in (0.1, 3.0):
            for step in range(1, 101):
                now += seconds
                shown.tick(replace(TICK, epochs=2, step=step, steps=100))
            shown.end_epoch(row(1, 0.6), is_best=False)
    lines = capsys.readouterr().err.splitlines()[1:]
    parts = [line.split("  ")[0] for line in lines if line[0].isdigit()]
    assert parts == [f"{tenth}0% of" for tenth in range(1, 10)]
    assert lines[1] == "10% of  epoch 3/2  loss 1.0000  train 50.00%  100 images/s  1:01 left"


def test_first_ctrl_c_in_a_training_asks_and_the_second_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "ONE_SIGNAL", 0)
    with TerminalDisplay() as shown:
        shown.start_training(9, best_accuracy=-1.0, facts=FACTS)
        assert not shown.should_stop()
        signal.raise_signal(signal.SIGINT)
        assert shown.should_stop()
        assert "Stopping after this step" in capsys.readouterr().err
        with pytest.raises(Ended):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("name, code", [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_every_stop_asks_first_and_has_its_exit_code(name: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "ONE_SIGNAL", 0)
    number = getattr(signal, name)
    with TerminalDisplay() as shown:
        shown.start_training(9, best_accuracy=-1.0, facts=FACTS)
        signal.raise_signal(number)
        assert (shown.should_stop(), shown.exit_code) == (True, code)
        with pytest.raises(Ended) as caught:
            signal.raise_signal(number)
        assert exit_code(caught.value) == code


def test_what_is_ignored_stays_so() -> None:
    """A training under nohup goes on when its terminal has gone."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with TerminalDisplay() as shown:
            shown.start_training(9, best_accuracy=-1.0, facts=FACTS)
            signal.raise_signal(signal.SIGHUP)
            assert not shown.should_stop()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_was_typed_gives_a_terminal_no_orders(capsys: pytest.CaptureFixture[str]) -> None:
    display.say("a\x1b[2J\nb")
    assert capsys.readouterr().err == "a\\x1b[2J\\nb\n"


@pytest.mark.parametrize("fault", ["full", "gone"])
def test_a_result_that_cannot_be_printed_ends_nothing(
    fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = {
        "data": "CIFAR-10", "model": "cnn", "test_accuracy": 0.5, "test_interval": [0.4, 0.6], "best_epoch": 1,
        "epochs": 1, "validation_accuracy": None, "seconds": 1.0, "recipe": {},
    }  # fmt: skip
    if fault == "full":
        stream = Path("/dev/full").open("w")  # noqa: SIM115
    else:
        reader, writer = os.pipe()
        os.close(reader)
        stream = os.fdopen(writer, "w")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(display, "stdout", display.Printer())  # it keeps what it could not print
    with TerminalDisplay() as shown:
        shown.result(summary, Path("runs/mine"))
    stream.close()  # what waited is dropped
    assert "cannot be printed" in (said := capsys.readouterr().err)
    assert "read runs/mine/summary.json" in said


@pytest.mark.parametrize("when", ["before", "after"])
def test_ctrl_c_outside_a_training_ends_at_once(when: str) -> None:
    with TerminalDisplay() as shown:
        if when == "after":
            shown.start_training(9, best_accuracy=-1.0, facts=FACTS)
            shown.end_training()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert not shown.should_stop()


def test_signals_are_as_before_afterwards() -> None:
    before: list[Any] = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with TerminalDisplay() as shown:
        shown.start_training(9, best_accuracy=-1.0, facts=FACTS)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("live", [False, True])
def test_bars_move_in_a_terminal_only(live: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "is_live", lambda: live)
    assert display.bars().disable is not live
