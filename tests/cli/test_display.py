"""The terminal's display: what "(best)" and the bar say, and what Ctrl-C does when."""

import signal
from typing import Any

import pytest

from cifar.cli import display
from cifar.cli.display import TerminalDisplay
from cifar.training.display import Tick

TICK = Tick(epoch=3, epochs=9, step=1, steps=4, loss=1.0, accuracy=0.5, images_per_second=100, seconds_left=61)


def row(epoch: int, accuracy: float) -> dict[str, float]:
    return {
        "epoch": epoch, "train_loss": 1.0, "train_accuracy": 0.5, "validation_accuracy": accuracy,
        "learning_rate": 0.1, "images_per_second": 100.0, "seconds": 60.0,
    }  # fmt: skip


def bar_text(shown: TerminalDisplay, monkeypatch: pytest.MonkeyPatch) -> str:
    texts: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr("rich.progress.Progress.update", lambda *_, **options: texts.append(options["description"]))
        shown.tick(TICK)
    return texts[0]


def test_bar_shows_the_best_accuracy_and_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    with TerminalDisplay() as shown:
        shown.start_training(9, best_accuracy=-1.0)
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
        shown.start_training(9, best_accuracy=0.7)
        assert "best validation 70.00%" in bar_text(shown, monkeypatch)
        shown.end_epoch(row(5, 0.6), is_best=False)
        shown.end_epoch(row(6, float("nan")), is_best=True)
    lines = capsys.readouterr().err.splitlines()
    assert "validation 60.00%  lr" in lines[0]
    assert "(best)" not in "".join(lines)
    assert "no validation" in lines[1]


def test_first_ctrl_c_in_a_training_asks_and_the_second_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with TerminalDisplay() as shown:
        shown.start_training(9, best_accuracy=-1.0)
        assert not shown.should_stop()
        signal.raise_signal(signal.SIGINT)
        assert shown.should_stop()
        assert "Stopping after this step" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("when", ["before", "after"])
def test_ctrl_c_outside_a_training_ends_at_once(when: str) -> None:
    with TerminalDisplay() as shown:
        if when == "after":
            shown.start_training(9, best_accuracy=-1.0)
            shown.end_training()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert not shown.should_stop()


def test_signals_are_as_before_afterwards() -> None:
    before: list[Any] = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with TerminalDisplay() as shown:
        shown.start_training(9, best_accuracy=-1.0)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("live", [False, True])
def test_bars_move_in_a_terminal_only(live: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "is_live", lambda: live)
    assert display.bars().disable is not live
