"""Locks that die with their holder, what killed processes leave, and programs that end with the process."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cifar.data.cache import cache_folder, filling, tidy_cache
from cifar.data.processes import hold

HOLDER = """
import sys, time
from pathlib import Path
from cifar.data.processes import hold
with hold(Path(sys.argv[1]), waiting=None) as held:
    print(held, flush=True)
    time.sleep(60)
"""


def wait_until_free(path: Path) -> bool:
    """Whether nobody holds a lock any more within ten seconds."""
    for _ in range(500):
        with hold(path, waiting=None) as held:
            if held:
                return True
        time.sleep(0.02)
    return False


def test_one_at_a_time_among_threads(tmp_path: Path) -> None:
    """Each adds one to a number in a file, in three steps that another must not come between."""
    number = tmp_path / "number"
    number.write_text("0")
    waited: list[str] = []

    def add() -> None:
        for _ in range(20):
            with hold(tmp_path / ".lock", waiting=lambda: waited.append("")) as held:
                assert held
                value = int(number.read_text())
                time.sleep(0.0005)
                number.write_text(f"{value + 1}")

    threads = [threading.Thread(target=add) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert number.read_text() == "120"
    assert waited
    assert [path.name for path in tmp_path.iterdir()] == ["number"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_lock_ends_with_its_process(number: int, tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    path.write_text("")  # as a killed process leaves it
    process = subprocess.Popen([sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    with hold(path, waiting=None) as held:
        assert not held
    process.send_signal(number)
    process.communicate()
    with hold(path, waiting=None) as held:
        assert held
    assert not path.exists()


def test_without_locks_nothing_is_held_and_all_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hold(tmp_path / "absent" / ".lock", waiting=None) as held:
        assert not held

    def fail(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    with hold(tmp_path / ".lock", waiting=lambda: pytest.fail("it waits")) as held:
        assert not held


def test_what_killed_processes_left_is_removed_and_nothing_of_others() -> None:
    folder = cache_folder()
    dead = (".fetch-a1b2/cache/x", ".train.safetensors.0123.part", ".test.safetensors.0123.part", ".source.json.0.part")
    others = ("train.safetensors", "cifar-10-python.tar.gz.part", ".contact-sheet.png.0123.part", "kernels/a.so")
    for name in (*dead, *others):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    with hold(folder / ".lock", waiting=None):
        tidy_cache()  # by another, while its writer lives
        assert all((folder / name).exists() for name in dead)
    tidy_cache()
    assert not any((folder / name).exists() for name in dead)
    (folder / ".lock").touch()
    tidy_cache()
    assert not (folder / ".lock").exists()
    (folder / dead[2]).write_text("")
    with filling(lambda _: pytest.fail("it waits")):
        assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {".lock", *others}
        (folder / dead[1]).write_text("")
        said: list[str] = []
        other = threading.Thread(target=lambda: filling(said.append).__enter__())
        other.start()
        while not said:
            time.sleep(0.01)
        assert "Another process is filling" in said[0]
        assert (folder / dead[1]).exists()  # while its writer lives
    other.join()
    assert not (folder / dead[1]).exists()


GUARDED = """
import sys, time
from pathlib import Path
from cifar.data.processes import running
with running([sys.executable, "-c", sys.argv[2], sys.argv[1]], folder=Path(), output=sys.stderr.buffer) as process:
    print("started", flush=True)
    process.wait()
"""
PROGRAM = """
import fcntl, os, sys, time
if not os.fork():  # as npm starts other programs
    file = open(sys.argv[1], "w")
    fcntl.flock(file, fcntl.LOCK_EX)
    print("locked", file=sys.stderr, flush=True)
time.sleep(60)
"""


def test_a_program_ends_with_its_process_and_with_all_that_it_started(tmp_path: Path) -> None:
    """However the process ends: npm would go on downloading."""
    numbers = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
    processes = []
    for number in numbers:
        command = [sys.executable, "-c", GUARDED, str(tmp_path / f"{number}"), PROGRAM]
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
    for number, process in zip(numbers, processes, strict=True):
        assert process.stderr is not None
        assert process.stderr.readline() == b"locked\n"
        process.send_signal(number)
        process.wait()
        assert wait_until_free(tmp_path / f"{number}")
        process.stderr.close()


def test_a_program_that_ends_gives_its_code_and_output(tmp_path: Path) -> None:
    from cifar.data.processes import running

    with (tmp_path / "log").open("wb") as output:
        script = "import sys; print(sys.argv, sys.stdin.read()); sys.exit(3)"
        with running([sys.executable, "-c", script, "a b", "$HOME"], folder=tmp_path, output=output) as process:
            assert process.wait() == 3
    assert (tmp_path / "log").read_text() == "['-c', 'a b', '$HOME'] \n"
    assert os.listdir(tmp_path) == ["log"]  # noqa: PTH208
