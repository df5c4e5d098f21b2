"""Storms: what must hold when a machine, a disk or a stranger does its worst.

    python benchmarks/storm.py kill --trials 300 --seed 0     # one storm; into results/storm.json
    python benchmarks/storm.py kill --trials 1 --seed 17      # trial 17 again, with its folder kept

A trial is decided by its seed alone. `benchmarks/README.md` says what each storm does and what must hold. The exit code
is 1 where something did not hold.
"""

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from storms.verdicts import write_record  # noqa: E402

# The number of trials that a recorded storm has.
STORMS = {
    "kill": 300,
    "full": 200,
    "flips": 400,
    "fuzz": 50_000,
    "together": 60,
    "signals": 120,
    "ranks": 12,
    "demo": 1,
    "memory": 2,
    "sweep": 4,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("storm", choices=STORMS)
    parser.add_argument("--trials", type=int, help="default: as many as are recorded")
    parser.add_argument("--seed", type=int, default=0, help="of the first trial; the others follow")
    parser.add_argument("--only", default="", help="one kind of the storm's trials, such as `train` or `images`")
    parser.add_argument("--folder", type=Path, help="for what is made; default a temporary one")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "storm.json")
    arguments = parser.parse_args()
    number = arguments.trials or STORMS[arguments.storm]
    storm = importlib.import_module(f"storms.{arguments.storm}").storm
    with tempfile.TemporaryDirectory(prefix="storm-") as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        tally = storm(number, arguments.seed, folder.resolve(), arguments.only)
    write_record(arguments.output, arguments.storm, tally.record())
    print(f"{arguments.storm}: {tally.held:,} of {tally.tried:,} trials held; {arguments.output}")
    return 0 if tally.held == tally.tried else 1


if __name__ == "__main__":
    sys.exit(main())
