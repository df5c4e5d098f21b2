"""Seconds by name, and since the process began."""

import subprocess
import sys
import time

from cifar.timing import process_seconds, timed


def test_seconds_of_a_name_add_up() -> None:
    timing: dict[str, float] = {}
    for name in ("data", "training", "data"):
        with timed(timing, name):
            time.sleep(0.02)
    assert timing["data"] >= 0.04
    assert 0.02 <= timing["training"] < timing["data"]


def test_a_process_knows_its_age() -> None:
    code = "import time; time.sleep(0.3); from cifar.timing import process_seconds; print(process_seconds())"
    started = time.perf_counter()
    age = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    whole = time.perf_counter() - started
    assert 0.29 <= age <= whole + 0.05
    assert process_seconds() > 0
