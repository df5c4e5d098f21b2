"""Two processes train together, and one of them or their launcher is killed: the run ends as the unbroken one does."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from storms.states import differences, state_of
from storms.verdicts import Tally, last_line, trials

ROOT = Path(__file__).resolve().parent.parent.parent
KINDS = ("rank", "rank twice", "launcher", "TERM")
START_SECONDS = 6.0  # of the processes, before which a kill finds nothing yet
TRAIN = ["train", "-m", "several_processes:network", "--data", "sample", "-d", "cpu", "--set", "precision=fp32"]
TRAIN += ["--set", "batch_size=50", "--set", "epochs=16", "--checkpoint-minutes", "0.003", "--devices", "2"]


def storm(number: int, seed: int, folder: Path, only: str = "") -> Tally:
    """Run the storm.

    Args:
        number: of trials; seed: of the first.
        folder: for what it makes.
        only: a kind; "" is all in turn.
    """
    started = time.monotonic()
    code, err = finished(begin([*TRAIN, "-s", "run"], folder / "whole"))
    assert code == 0, err
    seconds, expected = time.monotonic() - started, state_of(folder / "whole" / "run")
    kinds = (only,) if only else KINDS

    def one(seed: int) -> tuple[str, str]:
        kind, place = kinds[seed % len(kinds)], folder / f"trial-{seed}"
        fault = trial(kind, place, random.Random(seed), seconds) or differences(expected, state_of(place / "run"))
        if not fault:
            shutil.rmtree(place)
        return kind, fault

    return trials(Tally("ranks", seed), number, one)


def trial(kind: str, place: Path, rng: random.Random, seconds: float) -> str:
    """Break a training off at random moments, and resume it where nothing else does; what did not hold, or ""."""
    process = begin([*TRAIN, "-s", "run"], place)
    for _ in range(2 if kind == "rank twice" else 1):
        time.sleep(rng.uniform(START_SECONDS, max(seconds, START_SECONDS)))
        strike(process, kind, rng)
    code, err = finished(process)
    if "Traceback" in err:
        return f"traceback: {last_line(err)}"
    for _ in range(3):
        if code == 0:
            return ""
        if kind.startswith("rank") or code not in (-9, 143):
            return f"exit code {code}: {last_line(err)}"
        begun = (place / "run" / "recipe.json").exists()
        time.sleep(2)  # the processes of a launcher that was killed save and stop
        again = ["train", "--resume", "run", "--trust-code", "-d", "cpu", "--devices", "2"] if begun else TRAIN
        code, err = finished(begin([*again, *([] if begun else ["-s", "run"])], place))
    return f"exit code {code}: {last_line(err)}"


def strike(process: "subprocess.Popen[str]", kind: str, rng: random.Random) -> None:
    """Kill a random process of a training, or its launcher; nothing where it has ended."""
    try:
        launcher = psutil.Process(process.pid)
        ranks = [child for child in launcher.children() if "cifar" in child.cmdline()]
        if kind == "TERM":
            launcher.send_signal(signal.SIGTERM)
        elif kind == "launcher":
            launcher.kill()
        elif ranks:
            rng.choice(ranks).kill()
    except psutil.NoSuchProcess:
        pass


def begin(arguments: list[str], place: Path) -> "subprocess.Popen[str]":
    """A command of cifar in a folder of its own, where the network of the tests is found."""
    place.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "cifar", *arguments]
    return subprocess.Popen(command, cwd=place, env=environment, text=True, stdout=-1, stderr=-1)


def finished(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """The exit code of a command, and what it said."""
    _, err = process.communicate(timeout=300)
    return process.returncode, err
