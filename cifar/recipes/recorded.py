"""What the recorded runs reached: from recorded.json, which scripts/results_table.py writes from results/."""

import functools
import json
from pathlib import Path
from typing import NamedTuple

RECOMMENDED = "speednet-quick"  # to start with: minutes on a laptop


class Recorded(NamedTuple):
    """A recipe's recorded runs.

    Attributes:
        recipe: its name.
        accuracy: on the test set, a fraction; the mean over the seeds.
        interval: 95 %: over the test images for one seed, over the seeds for several; None where there is none.
        seeds: how many.
        tta: test-time augmentation of the result.
        parameters: of the network.
        minutes: of training; for the speednets of the whole process.
        machine: on which.
        run: the folder in results/.
        weights: whether they were kept, and come with this package.
    """

    recipe: str
    accuracy: float
    interval: tuple[float, float] | None
    seeds: int
    tta: str
    parameters: int
    minutes: float
    machine: str
    run: str
    weights: bool


@functools.cache
def recorded() -> dict[str, Recorded]:
    """All of them by recipe, the most accurate first."""
    rows = json.loads(Path(__file__).with_name("recorded.json").read_text())
    return {row["recipe"]: Recorded(**row) for row in rows}


def summary_line(name: str) -> str:
    """A recipe's accuracy and time in a few words, for a menu; "" where nothing is recorded."""
    row = recorded().get(name)
    if row is None:
        return ""
    return f"{row.accuracy:.1%} in {row.minutes:.0f} min on {row.machine.rpartition(', ')[2].partition(' (')[0]}"
