"""One process at a time: a lock that the system frees when its holder ends, however it ends."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl


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
                waiting()
                waiting = bool  # once
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
