"""Kill -9 at random moments and before file operations: what is repeated or resumed gives the unbroken result."""

import random
import shutil
from pathlib import Path

from storms.forks import KILL, TEAR, Forks
from storms.states import copy, differences, state_of
from storms.verdicts import Tally, bad_ending, trials
from storms.works import WORKS, Prepared, prepare

MOST_KILLS = 3  # in one trial, before the command is left in peace


def storm(number: int, seed: int, folder: Path, only: str = "") -> Tally:
    """Run the storm.

    Args:
        number: of trials; seed: of the first.
        folder: for what it makes.
        only: the name of a work; "" is all in turn.
    """
    names = [only] if only else list(WORKS)
    with Forks() as forks:
        prepared = {name: prepare(forks, name, folder / name) for name in names}

        def one(seed: int) -> tuple[str, str]:
            name = names[seed % len(names)]
            place = folder / f"{name}-trial"
            fault = trial(forks, prepared[name], place, seed // len(names), random.Random(seed))
            if not fault:
                shutil.rmtree(place)
            return name, fault

        return trials(Tally("kill", seed), number, one)


def points(operations: tuple[str, ...] | list[str]) -> list[int]:
    """The operations to break at: every one, but of many writes to one file the first, one in the middle, the last."""
    whats = [line.split(" ", 1)[1] for line in operations]
    chosen, start = [], 0
    for index, what in enumerate(whats):
        if index + 1 == len(whats) or whats[index + 1] != what:
            chosen += sorted({start, (start + index) // 2, index})
            start = index + 1
    return [index + 1 for index in chosen]


def trial(forks: Forks, prepared: Prepared, place: Path, turn: int, rng: random.Random) -> str:
    """Kill a command and what resumes it a few times, then leave it in peace; what did not hold in the end, or "".

    Args:
        turn: decides the operation: consecutive turns go through all of them.
    """
    copy(prepared.start, place)
    story = []
    for kills in range(MOST_KILLS + 1):
        argv = prepared.work.argv if not kills else prepared.work.again(place)
        if (kills and rng.random() < 0.6) or kills == MOST_KILLS:
            break
        if rng.random() < 0.3:
            moment = rng.uniform(0, prepared.seconds)
            result = forks.run(prepared.command(place, argv, signals=[(moment, 9)]))
            story.append(f"kill -9 after {moment:.3f} s")
        else:
            marks = points(list(prepared.operations))
            number = marks[(turn if not kills else rng.randrange(len(marks))) % len(marks)]
            action = rng.choice([KILL, TEAR])
            result = forks.run(prepared.command(place, argv, number=number, action=action))
            last = result.operations[-1] if result.operations else "none"
            story.append(f"{'torn' if action == TEAR else 'killed'} at {last.replace(str(place), '')}")
        if not result.killed:
            if wrong := bad_ending(result, codes=[0]):
                return f"{'; '.join(story)}; then `{' '.join(argv)}`: {wrong}"
            break  # it had ended by itself
    if result.killed:
        result = forks.run(prepared.command(place, argv))
        if wrong := bad_ending(result, codes=[0]):
            return f"{'; '.join(story)}; then `{' '.join(argv)}`: {wrong}"
    difference = differences(prepared.expected, state_of(place))
    return f"{'; '.join(story)}; then `{' '.join(argv)}`: {difference}" if difference else ""
