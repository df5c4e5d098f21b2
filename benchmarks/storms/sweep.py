"""Studies whose workers are killed, with the queue in the journal or in PostgreSQL, which is restarted meanwhile."""

import json
import random
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from storms.forks import FOLDER, Command, Forks
from storms.states import differences, state_of
from storms.verdicts import Tally, bad_ending, trials
from storms.works import CPU, environment

sys.path.append(str(FOLDER.parent.parent / "tests"))

SEEDS, WORKERS = 40, 3
KINDS = ("journal", "postgres")
STUDY = ("-m", "cnn", "-l", "0.003", "-e", "3", "--data", "sample")
EVERY = (1.0, 5.0)  # seconds between two kills, fewest and most
AWAY = (0.5, 4.0)  # seconds that a restart of PostgreSQL takes


def storm(number: int, seed: int, folder: Path, only: str = "") -> Tally:
    """Run the storm; a trial is a study of 40 seeds, and `only` is journal or postgres."""
    kinds = [only] if only else list(KINDS)
    with Forks() as forks, ExitStack() as stack:
        server = stack.enter_context(running()) if "postgres" in kinds else None
        alone = train_alone(forks, folder / "alone")
        tally = Tally("sweep", seed, figures={"seeds_a_study": SEEDS, "workers": WORKERS, "kills": 0})

        def one(seed: int) -> tuple[str, str]:
            kind = kinds[seed % len(kinds)]
            used = server if kind == "postgres" else None
            fault = trial(forks, folder / f"{kind}-{seed}", alone, used, random.Random(seed), tally)
            return kind, fault

        return trials(tally, number, one)


@contextmanager
def running() -> Iterator[Any]:
    """A PostgreSQL server of the tests' own."""
    from postgres_server import running_postgres

    with running_postgres() as server:
        yield server


def train_alone(forks: Forks, place: Path) -> dict[str, dict[str, str]]:
    """The state of each seed's run as `cifar train` leaves it, by the name that it has in a study."""
    from cifar.recipes import RECIPES, with_fields
    from cifar.runs import run_name

    place.mkdir()
    states = {}
    for seed in range(SEEDS):
        recipe = with_fields(RECIPES["cnn"](), lr=0.003, epochs=3, seed=seed)
        name = run_name(recipe, kind="seeds")
        argv = ("train", *STUDY, "--seed", str(seed), "-s", name, *CPU)
        result = forks.run(Command(argv, place, environment(place)))
        if result.code:
            raise RuntimeError(f"`cifar {' '.join(argv)}` fails: {result.err}")
        states[name] = state_of(place / name)
    return states


def plan(rng: random.Random, seconds: float) -> list[tuple[float, float]]:
    """Begin and end of workers, of which there are three at a time: at each kill another one takes the place."""
    begun, now, workers = [0.0] * WORKERS, 0.0, []
    while now < seconds:
        now += rng.uniform(*EVERY)
        slot = rng.randrange(WORKERS)
        workers.append((begun[slot], now))
        begun[slot] = now
    return workers


def trial(
    forks: Forks, place: Path, alone: dict[str, dict[str, str]], server: Any, rng: random.Random, tally: Tally
) -> str:
    """Begin a study, have its workers killed until it is done, and say what did not hold; "" is that all did.

    Args:
        forks: run the commands.
        place: a folder for the study.
        alone: of `train_alone`.
        server: PostgreSQL, which is restarted once; None is the journal.
        rng: decides when.
        tally: counts the kills.
    """
    place.mkdir()
    env = environment(place) | ({"CIFAR_STORAGE": server.url} if server else {})

    def run(*argv: str) -> str:
        result = forks.run(Command(argv, place, env))
        return bad_ending(result, codes=[0]) and f"`cifar {' '.join(argv)}`: {bad_ending(result, codes=[0])}"

    if wrong := run("sweep", "new", "study", *STUDY, "--seeds", str(SEEDS)):
        return wrong
    work = ("sweep", "work", "study", "--checkpoint-minutes", "0.0005", *CPU)  # several within an epoch
    rounds = 0
    while not (rows := rows_of(forks, place, env)) or any(row["state"] != "done" for row in rows):
        if (rounds := rounds + 1) > 20:
            return f"after {rounds} rounds {sum(row['state'] != 'done' for row in rows)} trials are not done"
        workers = plan(rng, 30.0)
        commands = [
            Command(work, place, env, delay=begin, signals=[(stop - begin, 9)], timeout=600) for begin, stop in workers
        ]
        restarting = threading.Thread(target=restart, args=(server, rng.uniform(2, 15), rng.uniform(*AWAY)))
        if server and rounds == 1:
            restarting.start()
        results = forks.run_together(commands)
        if server and rounds == 1:
            restarting.join()
        tally.figures["kills"] += sum(result.killed for result in results)
        for result in results:
            if not result.killed and (wrong := bad_ending(result, codes=[0])):
                return f"a worker: {wrong}"
    return run(*work) or judge(rows, place / "study", alone)


def restart(server: Any, after: float, away: float) -> None:
    """Restart PostgreSQL after some seconds, for some seconds."""
    time.sleep(after)
    server.restart(seconds=away)


def rows_of(forks: Forks, place: Path, env: dict[str, str]) -> list[dict[str, Any]]:
    """The trials of the study, as `cifar sweep show` prints them."""
    result = forks.run(Command(("sweep", "show", "study", "--json"), place, env))
    return list(json.loads(result.out)["rows"])


def judge(rows: Sequence[dict[str, Any]], study: Path, alone: dict[str, dict[str, str]]) -> str:
    """What does not hold of a finished study: each seed done once, each run as it is alone, no other run."""
    seeds = [row["values"]["seed"] for row in rows]
    if sorted(seeds) != list(range(SEEDS)):
        return f"the trials are of the seeds {seeds}"
    runs = {path.name for path in study.iterdir() if path.is_dir() and path.name != "claims"}
    if runs != alone.keys():
        return f"other runs: {runs ^ alone.keys()}"
    faults = {name: differences(expected, state_of(study / name)) for name, expected in alone.items()}
    return "; ".join(f"{name}: {fault}" for name, fault in faults.items() if fault)
