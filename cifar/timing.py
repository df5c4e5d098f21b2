"""Where the seconds go; and interleaved timing of alternatives, so that a slow machine slows all of them."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

IMPORTED = time.perf_counter()


@dataclass(frozen=True)
class Timing:
    """Repeated measurements of one thing, in the unit of their line.

    Attributes:
        values: in the order they were taken.
    """

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)


def in_turn(alternatives: Mapping[str, Callable[[], float]], *, repeats: int) -> dict[str, Timing]:
    """Measure each alternative once, then each again, `repeats` times over; a first round is thrown away.

    Args:
        alternatives: functions that run something and give what was measured, such as seconds or images/s.
    """
    values: dict[str, list[float]] = {name: [] for name in alternatives}
    for round_number in range(repeats + 1):
        for name, measure in alternatives.items():
            value = measure()
            if round_number:  # caches are cold and kernels are chosen in the first
                values[name].append(value)
    return {name: Timing(tuple(numbers)) for name, numbers in values.items()}


def seconds(action: Callable[[], object]) -> float:
    """How long an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


@contextmanager
def timed(timing: dict[str, float], name: str) -> Iterator[None]:
    """Add the seconds that a context takes to those of a name."""
    start = time.perf_counter()
    try:
        yield
    finally:
        timing[name] = timing.get(name, 0.0) + time.perf_counter() - start


def process_seconds() -> float:
    """Seconds since this process began; outside Linux, since this module was imported."""
    with suppress(OSError, ValueError, IndexError):
        ticks = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])  # from when the system began
        up = float(Path("/proc/uptime").read_text().split()[0])
        return up - ticks / 100
    return time.perf_counter() - IMPORTED
