"""The demo under 2,000 requests of 50 clients and a soak, some of them hostile: `benchmarks/demo_load.py` does it."""

import json
import subprocess
import sys
from pathlib import Path

from storms.forks import FOLDER
from storms.verdicts import Tally

ROOT = FOLDER.parent.parent
SCRIPT = str(ROOT / "benchmarks" / "demo_load.py")
RUN = ROOT / "results" / "resnet"
CLIENTS, REQUESTS, HOSTILE, SOAK_MINUTES = 50, 2_000, 0.05, 24


def storm(number: int, seed: int, folder: Path, only: str = "") -> Tally:
    """Run the storm; `only` is load or soak. Its figures are those that demo_load.py prints.

    Args:
        number: unused: it is one trial each.
        seed: handed on.
    """
    del number, folder
    tally = Tally("demo", seed)
    common = ["--clients", str(CLIENTS), "--requests", str(REQUESTS)]
    helped = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, check=True).stdout
    common += ["--hostile", str(HOSTILE)] if "--hostile" in helped else []
    for name, more in {"load": [], "soak": ["--minutes", str(SOAK_MINUTES)]}.items():
        if only not in ("", name) or (more and more[0] not in helped):
            continue
        done = subprocess.run([sys.executable, SCRIPT, str(RUN), *common, *more], capture_output=True, text=True)
        try:
            tally.figures[name] = figures = json.loads(done.stdout)
        except ValueError:
            tally.count(seed, name, f"no figures: {done.stderr[-300:]}")
            continue
        fault = f"{figures['lost']} lost, {figures['wrong']} wrong, let in {figures.get('let_in')}, {figures['memory']}"
        tally.count(seed, name, fault if done.returncode else "")
    print()
    return tally
