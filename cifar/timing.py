"""Interleaved timing of alternatives, so that a slow phase of the machine slows all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


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
