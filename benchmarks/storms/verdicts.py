"""What storms share: judging an error message, counting trials, and the record of all storms."""

import json
import os
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storms.forks import Result

MOST = 40  # failures that are written out; all are counted


@dataclass
class Tally:
    """Trials of a storm so far.

    Attributes:
        kinds: trials and those that held, of each kind.
    """

    name: str
    seed: int
    tried: int = 0
    held: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    kinds: dict[str, list[int]] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    figures: dict[str, Any] = field(default_factory=dict)

    def count(self, seed: int, kind: str, fault: str) -> None:
        """Count a trial; `fault` says in a sentence what did not hold, "" is that all did."""
        self.tried += 1
        counts = self.kinds.setdefault(kind, [0, 0])
        counts[0] += 1
        from cifar.cli.display import printable

        fault = printable(fault)
        if fault:
            self.failures.append({"seed": seed, "kind": kind, "fault": fault})
            print(f"\n{self.name} --seed {seed}: {kind}: {fault}", flush=True)
        else:
            self.held += 1
            counts[1] += 1
        seconds = time.monotonic() - self.started
        print(f"\r{self.name}: {self.tried} tried, {self.held} held, {seconds:.0f} s ", end="", flush=True)

    def record(self) -> dict[str, Any]:
        """JSON-ready."""
        from cifar.machine import describe_commit, describe_machine

        kinds = {kind: {"tried": tried, "held": held} for kind, (tried, held) in sorted(self.kinds.items())}
        return {
            "tried": self.tried, "held": self.held, "seed": self.seed, "kinds": kinds, **self.figures,
            "failures": self.failures[:MOST], "seconds": round(time.monotonic() - self.started, 1),
            "machine": describe_machine(), "commit": describe_commit(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }  # fmt: skip


def trials(tally: Tally, number: int, one: Callable[[int], tuple[str, str]]) -> Tally:
    """Run trials with the seeds from the tally's on; each gives its kind and what did not hold."""
    for seed in range(tally.seed, tally.seed + number):
        tally.count(seed, *one(seed))
    print()
    return tally


def sentence_of(result: Result, *, program: str = "cifar") -> str:
    """The sentence that a failed command ends with; "" if there is none, or more than one."""
    found = [line for line in result.err.splitlines() if line.startswith(f"{program}: ")]
    return found[0] if len(found) == 1 else ""


def bad_ending(result: Result, *, codes: Iterable[int], names: str = "") -> str:
    """What is wrong with how a command ended; "" if nothing is.

    Args:
        codes: that are allowed; every other than 0 needs exactly one sentence.
        names: what the sentence has to name, such as a folder; "" is anything.
    """
    if result.late:
        return "it hangs"
    if "Traceback" in result.err + result.out:
        return f"traceback: {last_line(result.err)}"
    if result.code not in codes:
        return f"exit code {result.code}: {last_line(result.err)}"
    if result.code in (1, 2):
        sentence = sentence_of(result)
        if not sentence:
            return f"not one sentence: {result.err[-300:]!r}"
        if names and names not in sentence:
            return f"the sentence does not name the file: {sentence}"
        if "enforce fail" in sentence or "[Errno" in sentence:
            return f"not a sentence for a person: {sentence}"
    return ""


def last_line(text: str) -> str:
    """The last line that is not empty."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")[:300]


def write_record(path: Path, name: str, record: dict[str, Any]) -> None:
    """Put a storm's record into the file of all, which is replaced whole and durably."""
    records = json.loads(path.read_text()) if path.exists() else {}
    records[name] = record
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with temporary.open("w") as file:
        file.write(json.dumps(records, indent=1, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
