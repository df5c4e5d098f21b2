"""Processes side by side: locks that end with their holder, and programs that end with this process."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl


# A shell that runs its arguments. When standard input closes, as it does however the process that holds its other end
# comes to an end, the shell kills its process group: itself and everything that it runs.
GUARD = """
exec 3<&0 </dev/null
{ read -r line <&3; kill -9 0; } &
"$@" 3<&-
code=$?
exec 2>/dev/null
kill -9 $!
exit $code
"""


@contextmanager
def hold(path: Path, *, waiting: Callable[[], object] | None) -> Iterator[bool]:
    """Hold a name for this block alone, among all processes and threads.

    The lock is on an empty file, which is removed afterwards; one that a killed process left behind is not held.

    Args:
        path: of the file, in a folder that exists.
        waiting: called once where another holds it, before waiting for the other; None not to wait.

    Yields:
        whether it is held; False, too, where the file system or the platform has no locks, or the disk no room.
    """
    descriptor = acquire(path, waiting=waiting)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            with suppress(OSError):
                path.unlink()  # while it is still held, so that nobody else's is removed
            os.close(descriptor)


def acquire(path: Path, *, waiting: Callable[[], object] | None) -> int | None:
    """The open file with the lock, see `hold`; None where it cannot be had."""
    if sys.platform == "win32":
        return None
    waited = False
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        except OSError:
            return None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting is None:
                    os.close(descriptor)
                    return None
                if not waited:
                    waiting()
                    waited = True
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.path.samestat(os.stat(path), os.fstat(descriptor)):  # noqa: PTH116
                return descriptor
        except FileNotFoundError:  # its holder removed it, so the lock is on a file that nobody else can open
            pass
        except OSError:  # no locks here
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


@contextmanager
def running(command: list[str], *, folder: Path, output: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A program that ends with the block, with all that it started, and with this process, even if that is killed.

    Args:
        command: program and arguments.
        folder: that it starts in.
        output: gets what it prints.
    """
    if os.name == "posix":
        command = ["/bin/sh", "-c", GUARD, "sh", *command]
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        if process.poll() is None:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL) if os.name == "posix" else process.kill()
            process.wait()
