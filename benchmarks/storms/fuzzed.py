"""The process that `storms.fuzz` watches: one kind of input, case after case.

A case is handed to a reader of the package; it may succeed, or raise InputError or WorldError. Anything else is a
fault, written at once, since the process may die with a later case. The input of the running case is in case.bin.
"""

import contextlib
import io
import json
import os
import random
import resource
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

MORE_MEMORY = 2**30  # bytes beyond what good inputs need
ALL_MEMORY = 12 * 2**30  # of addresses: the machine is to survive
EXECUTES = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "pty.spawn", "socket.connect", "os.fork")
CANARY = "from pathlib import Path\nPath('executed').touch()\ndef net():\n    Path('executed').touch()\n"


class Watch:
    """Runs cases and writes down what goes wrong."""

    def __init__(self, reader: Callable[[Any], None], folder: Path) -> None:
        self.reader, self.folder = reader, folder
        self.cases, self.engine, self.executed = 0, "", ""
        self.limit = 0
        self.state = os.open(folder / "state.json", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self.case = os.open(folder / "case.bin", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self.end()  # with no case yet
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if event in EXECUTES or (event == "import" and arguments[0] == "evil"):
            self.executed = f"{event} {str(arguments)[:80]}"

    def run(self, case: Any) -> None:
        """Run one case."""
        from cifar.errors import InputError, WorldError

        content = case if isinstance(case, bytes) else repr(case).encode()
        os.pwrite(self.case, content, 0)
        os.ftruncate(self.case, len(content))
        os.pwrite(self.state, json.dumps({"cases": self.cases, "engine": self.engine}).encode(), 0)
        self.executed, fault = "", ""
        try:
            self.reader(case)
        except (InputError, WorldError) as error:
            if "\n" in str(error).strip() or not str(error):
                fault = f"not a sentence: {str(error)[:200]!r}"
        except Exception as error:
            frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/cifar/" in frame.filename]
            where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno} {frames[-1].name}" if frames else "?"
            fault = f"traceback {type(error).__name__} at {where}"
        memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.limit = self.limit or memory + MORE_MEMORY
        if memory > self.limit:
            fault, self.limit = f"memory: {memory / 2**30:.1f} GiB", memory + MORE_MEMORY
        if self.executed or Path("executed").exists():
            fault = f"executed: {self.executed}"
            Path("executed").unlink(missing_ok=True)
        self.cases += 1
        if fault:
            kept = self.folder / f"fault-{self.cases}.bin"
            kept.write_bytes(content)
            with (self.folder / "faults.jsonl").open("a") as file:
                file.write(json.dumps({"fault": fault, "input": f"{kept}: {content[:120]!r}"}) + "\n")

    def end(self) -> None:
        """Write the count down."""
        os.pwrite(self.state, json.dumps({"cases": self.cases, "engine": self.engine}).encode(), 0)


def mutate(content: bytes, rng: random.Random) -> bytes:
    """A few changes of bytes: flipped bits, cuts, repetitions, extreme numbers, zeros."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        at = min(int(len(data) * rng.random() ** 2), max(0, len(data) - 1))  # headers more often than pixels
        kind = rng.randrange(6)
        if kind == 0 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at : at + rng.choice([1, 2, 4, 8])] = rng.choice([b"\0", b"\xff"]) * rng.choice([1, 2, 4, 8])
        elif kind == 2:
            del data[at : at + rng.randrange(1, 64)]
        elif kind == 3:
            data[at:at] = data[at : at + rng.randrange(1, 64)]
        elif kind == 4:
            data[at : at + 4] = rng.choice([1, 255, 65_535, 2**31 - 1, 2**32 - 1]).to_bytes(
                4, rng.choice(["big", "little"])
            )
        elif rng.random() < 0.2:
            data = data[:at]
    return bytes(data)


def run_bytes(watch: Watch, good: list[bytes], number: int, seed: int) -> None:
    """Feed bytes: coverage-guided by Atheris, or mutations by seed."""
    for content in good:
        watch.run(content)
    watch.limit = 0  # what good inputs need is known now
    try:
        if os.environ.get("STORM_ENGINE") == "seed":
            raise ImportError
        import atheris
    except ImportError:
        watch.engine, rng = "mutations by seed", random.Random(seed)
        for _ in range(number - len(good)):
            watch.run(mutate(rng.choice(good), rng))
        return
    watch.engine = f"atheris {version('atheris')}"
    corpus = watch.folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for index, content in enumerate(good):
        (corpus / f"{index}").write_bytes(content)
    flags = [f"-runs={number}", f"-seed={seed % 2**31 + 1}", "-rss_limit_mb=0", "-timeout=600", "-verbosity=0",
             f"-max_len={max(map(len, good)) + 4096}", "-detect_leaks=0"]  # fmt: skip

    def one(data: bytes) -> None:
        watch.run(data)
        if watch.cases >= number:
            watch.end()
            os._exit(0)

    atheris.Setup(["fuzz", *flags, str(corpus)], one)
    atheris.Fuzz()


def run_text(watch: Watch, strategy: Any, number: int, seed: int) -> None:
    """Feed what a strategy of Hypothesis draws."""
    import hypothesis

    watch.engine = f"hypothesis {version('hypothesis')}"
    rounds = 0
    while watch.cases < number:  # it stops early where it has seen a small space whole
        before, rounds = watch.cases, rounds + 1

        @hypothesis.seed(seed + rounds)
        @hypothesis.settings(
            max_examples=number - watch.cases, database=None, deadline=None, phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )  # fmt: skip
        @hypothesis.given(strategy)
        def cases(case: Any) -> None:
            if watch.cases < number:
                watch.run(case)

        cases()
        if watch.cases == before:
            break


def version(package: str) -> str:
    import importlib.metadata

    return importlib.metadata.version(package)


def main() -> None:
    kind, number, seed, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    os.chdir(folder)
    (folder / "evil.py").write_text(CANARY)
    sys.path.insert(0, str(folder))
    resource.setrlimit(resource.RLIMIT_AS, (ALL_MEMORY, ALL_MEMORY))
    guided = contextlib.nullcontext()
    with contextlib.suppress(ImportError):
        if kind in ("images", "archives", "weights", "onnx", "arrays") and os.environ.get("STORM_ENGINE") != "seed":
            import atheris

            guided = atheris.instrument_imports(include=["cifar", "tarfile", "zipfile", "pickle", "numpy.lib"])
    from storms import readers

    with guided, contextlib.redirect_stdout(io.StringIO()):
        reader, inputs = readers.READERS[kind](folder)
    watch = Watch(reader, folder)
    run = run_bytes if isinstance(inputs, list) else run_text
    run(watch, inputs, number, seed)
    watch.end()


if __name__ == "__main__":
    main()
