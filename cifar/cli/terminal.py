"""What the world around a command may lack or do: open streams, a UTF-8 terminal, quiet; and signals.

Exit codes: 0 done; 1 what the world did; 2 what was typed; 130, 143 and 129 stopped by Ctrl-C, TERM and HUP, as shells
expect.
"""

import codecs
import contextlib
import io
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

ASCII = {"→": "->", "←": "<-", "×": "x", "–": "-", "…": "...", "·": "*", "²": "2", "ö": "o"}
ONE_SIGNAL = 0.5  # seconds
STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Ended(BaseException):
    """The system or a person asked the program to end; unlike a KeyboardInterrupt, Typer lets it pass.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def exit_code(interrupt: BaseException) -> int:
    """The exit code of a program that ended by Ctrl-C or another signal."""
    return 128 + (interrupt.number if isinstance(interrupt, Ended) else signal.SIGINT)


def end(number: int, _frame: FrameType | None) -> NoReturn:
    """As a handler of signals: unwind, so that nothing half-done stays."""
    raise Ended(number)


def once(handler: Callable[[int, FrameType | None], None]) -> Callable[[int, FrameType | None], None]:
    """A handler of signals that hears one sent twice as one.

    `timeout` sends a signal to the process and then to its group, as do shells and schedulers; a person who presses
    Ctrl-C again takes longer than half a second.
    """
    heard = -math.inf

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        now = time.monotonic()
        if now - heard >= ONE_SIGNAL:
            heard = now
            handler(number, frame)

    return hear


def until_signal(run: Callable[[], int]) -> int:
    """The exit code of a function that Ctrl-C, TERM and HUP unwind; what is ignored, as by nohup, stays so.

    Args:
        run: gives its exit code, also where a signal ends it; that of a signal which disturbs even this is given here.
    """
    over = False

    def end_unless_over(number: int, frame: FrameType | None) -> None:
        if not over:
            end(number, frame)

    handler, before = once(end_unless_over), {}
    with contextlib.suppress(ValueError):  # in another thread, which gets no signals
        for number in STOPS:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                before[number] = signal.signal(number, handler)
    try:
        return run()
    except (KeyboardInterrupt, Ended) as interrupt:
        over = True
        return exit_code(interrupt)
    finally:
        over = True  # from here on nobody would catch what the handler raises
        for number, earlier in before.items():
            signal.signal(number, earlier)


def prepare() -> None:
    """Make the standard streams usable, whatever they are; called once, before anything else is opened.

    A closed one becomes the null device, since the next file to be opened would take its place. Standard error, which
    has remarks alone, loses them rather than end a training when its terminal has gone.
    """
    with contextlib.suppress(OSError):
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(number, True)
        os.close(number)
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if os.name != "nt" or not sys.stderr:  # the terminal of Windows takes no bytes
        encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
        sys.stderr = io.TextIOWrapper(io.BufferedWriter(Tolerant(2)), encoding, FALLBACK, line_buffering=True)
    show_whatever_encoding()


def show_whatever_encoding() -> None:
    """Have the standard streams replace what they cannot encode, and names of files that are no Unicode."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=FALLBACK)
    if os.environ.get("COLUMNS", "") not in {str(width) for width in range(20, 500)}:
        os.environ.pop("COLUMNS", None)  # nothing can be read at such a width, and lines of a gigabyte be printed


def drop_results() -> bool:
    """Whether standard output takes nothing, since its reader has gone or its disk is full; then it is given up."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())
            os.close(null)
        return True
    return False


class Tolerant(io.RawIOBase):
    """A file that is open for writing, and drops what it cannot take."""

    def __init__(self, number: int) -> None:
        self._number = number

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def write(self, data: "bytes | bytearray | memoryview", /) -> int:  # type: ignore[override]
        with contextlib.suppress(OSError):
            return os.write(self._number, data)
        return len(data)


def fall_back(error: UnicodeError) -> tuple[str | bytes, int]:
    """As a handler of errors: plain letters for the signs that we print, and escapes for all others."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    plain = (ASCII.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in text)
    return "".join(plain), error.end


FALLBACK = "cifar.fall_back"
codecs.register_error(FALLBACK, fall_back)
