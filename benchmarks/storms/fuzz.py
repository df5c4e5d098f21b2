"""Hostile text and bytes for everything that reads: no traceback, no hang, no flood of memory, nothing executed.

Text comes from Hypothesis, bytes from Atheris (coverage-guided) where it is installed, else from mutations by seed.
Each kind runs in a process of its own, `storms.fuzzed`, watched from here: one that hangs or dies is started again
behind the case at fault.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from storms.forks import FOLDER, ONE_THREAD
from storms.verdicts import Tally

# The share of each kind among all cases.
SHARES = {"images": 0.28, "archives": 0.14, "weights": 0.14, "onnx": 0.1, "arrays": 0.06, "records": 0.08,
          "metrics": 0.04, "settings": 0.07, "recipes": 0.07, "commands": 0.02}  # fmt: skip
HANG = 10.0  # seconds that a case may take
STARTS = 60  # seconds that a process may take before its first case


def storm(number: int, seed: int, folder: Path, only: str = "") -> Tally:
    """Run the storm; `only` is one of SHARES."""
    tally = Tally("fuzz", seed)
    for kind in [only] if only else list(SHARES):
        cases = number if only else max(1, round(number * SHARES[kind]))
        tried, faults, engine = run_kind(kind, cases, seed, folder / kind)
        tally.tried += tried
        held = tried - sum(fault["times"] for fault in faults)
        tally.held += held
        tally.kinds[kind] = [tried, held]
        tally.figures.setdefault("engines", {})[kind] = engine
        for fault in faults:
            tally.failures.append({"seed": seed, "kind": kind} | fault)
            print(f"\nfuzz {kind}: {fault['times']} times {fault['fault']}\n  {fault['input']}", flush=True)
        print(f"fuzz: {kind}: {tried:,} tried, {held:,} held, {time.monotonic() - tally.started:.0f} s", flush=True)
    return tally


def run_kind(kind: str, cases: int, seed: int, folder: Path) -> tuple[int, list[dict[str, object]], str]:
    """Run the cases of a kind: how many were tried, faults of each sort with their first input, and the engine."""
    folder.mkdir(parents=True, exist_ok=True)
    state, found = folder / "state.json", folder / "faults.jsonl"
    found.unlink(missing_ok=True)
    tried, ends, engine = 0, [], ""
    paths = [str(FOLDER.parent), str(FOLDER.parent.parent)]
    while tried < cases and len(ends) < 20:
        state.unlink(missing_ok=True)
        env = os.environ | ONE_THREAD | {
            "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
            "CIFAR_HOME": str(folder / "home"), "HOME": str(folder / "home"),
        }  # fmt: skip
        command = [sys.executable, "-m", "storms.fuzzed", kind, str(cases - tried), str(seed + tried), str(folder)]
        with (folder / "output.txt").open("wb") as output:
            process = subprocess.Popen(
                command, env=env, stdout=output, stderr=output, cwd=folder, start_new_session=True
            )
            end = watch(process, state)
        done = json.loads(state.read_text()) if state.exists() else {"cases": 0, "engine": ""}
        tried, engine = tried + done["cases"], done["engine"] or engine
        if end:
            case = folder / "case.bin"
            kept = folder / f"end-{len(ends)}.bin"
            if case.exists():
                kept.write_bytes(case.read_bytes())
            tail = (folder / "output.txt").read_text(errors="replace").strip().splitlines()[-1:]
            ends.append({"fault": f"{end} {' '.join(tail)[:200]}", "input": str(kept), "times": 1})
            if not done["cases"]:
                break  # it does not even start
        elif not done["cases"]:
            break
    faults: dict[str, dict[str, object]] = {}
    for line in found.read_text().splitlines() if found.exists() else ():
        fault = json.loads(line)
        known = faults.setdefault(fault["fault"], fault | {"times": 0})
        known["times"] = int(str(known["times"])) + 1
    return max(tried, 1), [*faults.values(), *ends], engine


def watch(process: "subprocess.Popen[bytes]", state: Path) -> str:
    """Wait for a process, and end it where a case hangs; in words, what went wrong, "" if nothing did."""
    last, since = b"", time.monotonic()
    while process.poll() is None:
        time.sleep(0.05)
        now = state.read_bytes() if state.exists() else b""
        if now != last:
            last, since = now, time.monotonic()
        elif time.monotonic() - since > (HANG if now else STARTS):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"a case takes more than {HANG:.0f} s" if now else "it does not start"
    if process.returncode in (0, 77):  # 77: Atheris, as it likes
        return ""
    return f"the process ends with {process.returncode}"
