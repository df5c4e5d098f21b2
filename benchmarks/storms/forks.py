"""Commands of `cifar` run many times with faults: the library that injects them, and the server that forks them."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

FOLDER = Path(__file__).resolve().parent
KILL, TEAR = -1, -2  # as in fault.c; other actions are an errno
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Command:
    """A command of `cifar`, and what is to happen to it.

    Attributes:
        argv: after the program's name.
        cwd: the folder it runs in.
        env: variables beyond the server's.
        folder: whose file operations are counted and meet faults; "" is none.
        number: the operation, from 1, that meets the fault; action: KILL, TEAR, an errno, or 0 to count alone; stays:
            later operations that need room fail as well.
        signals: seconds after the start, and the signal's number.
        delay: seconds before the start; timeout: seconds after which it is killed.
        max_file: bytes that no file may exceed; uid: the user to run as; 0 is none.
        prepare: module:function, called in the child before the command.
    """

    argv: Sequence[str]
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""
    number: int = 0
    action: int = 0
    stays: bool = False
    signals: Sequence[tuple[float, int]] = ()
    delay: float = 0.0
    timeout: float = 120.0
    max_file: int = 0
    uid: int = 0
    prepare: str = ""


@dataclass(frozen=True)
class Result:
    """How a command ended: its exit code (negative: a signal's number), what it printed, its file operations."""

    code: int
    out: str
    err: str
    operations: tuple[str, ...]
    seconds: float
    late: bool

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL and not self.late


def build_fault(folder: Path) -> Path:
    """Compile fault.c into a folder.

    Raises:
        subprocess.CalledProcessError, OSError: there is no compiler, or it refuses.
    """
    path = folder / "fault.so"
    command = [os.environ.get("CC", "cc"), "-O2", "-shared", "-fPIC", str(FOLDER / "fault.c"), "-o", str(path), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return path


class Forks:
    """The server, as a context; `run` runs one command, `run_together` several at the same time.

    Args:
        few: import only what a training needs; other commands start as slowly as ever.
    """

    def __init__(self, *, few: bool = False) -> None:
        self._few = few

    def __enter__(self) -> "Forks":
        self._folder = tempfile.TemporaryDirectory(prefix="storm-server-")
        self.scratch = Path(self._folder.name)
        library = build_fault(self.scratch)
        paths = [str(FOLDER.parent), str(FOLDER.parent.parent), os.environ.get("PYTHONPATH", "")]
        env = os.environ | ONE_THREAD | {
            "LD_PRELOAD": str(library), "PYTHONPATH": os.pathsep.join(filter(None, paths)), "WANDB_MODE": "offline",
            "COLUMNS": "200",
        }  # fmt: skip
        command = [sys.executable, str(FOLDER / "server.py"), *(["few"] if self._few else [])]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        if self._answer() != "ready\n":
            raise RuntimeError("The server of the storms did not start.")
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._folder.cleanup()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def run(self, command: Command) -> Result:
        """Run a command to its end."""
        return self.run_together([command])[0]

    def run_together(self, commands: Sequence[Command]) -> list[Result]:
        """Run commands at the same time."""
        assert self._process.stdin is not None
        files = [{name: str(self.scratch / f"{index}.{name}") for name in ("out", "err", "log")}
                 for index in range(len(commands))]  # fmt: skip
        for names in files:
            for name in names.values():
                Path(name).unlink(missing_ok=True)
        request: list[dict[str, Any]] = [
            dataclasses.asdict(command) | names | {"cwd": str(command.cwd), "log": names["log"] * bool(command.folder)}
            for command, names in zip(commands, files, strict=True)
        ]
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        if not answer:
            raise RuntimeError("The server of the storms has died.")
        return [
            Result(
                entry["code"], read(names["out"]), read(names["err"]),
                tuple(read(names["log"]).splitlines()), entry["seconds"], entry["late"],
            )
            for entry, names in zip(json.loads(answer), files, strict=True)
        ]  # fmt: skip


def read(name: str) -> str:
    """The text of a file; "" where there is none."""
    path = Path(name)
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
