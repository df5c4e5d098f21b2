"""Files that are either all there or not there, locks that end with their process, and the cache folder."""

import errno
import glob
import json
import os
import secrets
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from cifar.errors import WorldError

if sys.platform != "win32":
    import fcntl

Write = Callable[[IO[bytes]], object]


def cache_folder() -> Path:
    """Where decoded data, compiled kernels and the like lie: CIFAR_HOME, if set, else the platform's cache folder.

    Raises:
        WorldError: the user has no home folder.
    """
    from platformdirs import user_cache_dir

    home = os.environ.get("CIFAR_HOME")
    try:
        return Path(home).expanduser() if home else Path(user_cache_dir("cifar"))
    except RuntimeError:
        raise WorldError("This user has no home folder: set CIFAR_HOME to a folder for data.") from None


def read_regular(path: Path, *, limit: int) -> bytes:
    """The content of a regular file; a pipe or device is refused at once instead of waited for.

    Args:
        path: of the file; links are followed.
        limit: in bytes.

    Raises:
        OSError: as the system gives it, or the file is not regular or larger than the limit.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(descriptor, "rb") as file:  # noqa: PTH123
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        if state.st_size > limit:
            raise OSError(errno.EFBIG, f"it is larger than {limit:,} bytes", str(path))
        return file.read(state.st_size)


@contextmanager
def staged(path: Path, write: Write) -> Iterator[Path]:
    """A complete, flushed temporary file beside a path, to take its name; removed at the end if it has not.

    While it exists it is locked, so that `remove_leftovers` tells it from those of dead processes.

    Args:
        path: that the file is for; where something is there, it must be a regular file.
        write: gets the open file.

    Raises:
        OSError: names the path.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "a folder, pipe or device is there, which no file replaces", str(path))
    with ExitStack() as stack:
        try:
            temporary, file = new_temporary(path)
            stack.callback(discard, temporary)
            stack.callback(file.close)
            write(file)
            file.flush()
            os.fsync(file.fileno())
            if sys.platform == "win32":  # an open file cannot be renamed there
                file.close()
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(path)) from None
        yield temporary


def new_temporary(path: Path) -> tuple[Path, IO[bytes]]:
    """A new locked file `.NAME.….part` beside a path, open for writing."""
    while True:
        temporary = temporary_name(path)
        file = temporary.open("xb")  # unlike those of tempfile, with the permissions that the umask leaves
        try_lock(file.fileno())
        if os.fstat(file.fileno()).st_nlink:
            return temporary, file
        file.close()  # taken for a leftover before it was locked


def discard(path: Path) -> None:
    """Remove a file if it is there and can be removed."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """A name beside a path that nothing has, by which `remove_leftovers` knows what it was for."""
    return path.with_name(f".{path.name[:60]}.{secrets.token_hex(4)}.part")


def try_lock(descriptor: int) -> bool:
    """Lock an open file or folder until it is closed or its process ends; false where another process has it.

    A file system without such locks gives every lock to everybody.
    """
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True
    return True


def remove_leftovers(folder: Path, *, of: str = "*") -> None:
    """Remove temporary files and folders that dead processes left in a folder.

    Args:
        folder: where to look.
        of: the name that they were meant for; "*" is any.
    """
    import shutil

    pattern = of if of == "*" else glob.escape(of[:60])
    for entry in folder.glob(f".{pattern}.{'[0-9a-f]' * 8}.part"):
        with suppress(OSError):
            descriptor = os.open(entry, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
            try:
                if try_lock(descriptor):
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            finally:
                os.close(descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for writing. The lock is the process's, not a file: it ends with it, however that ends.

    Raises:
        WorldError: another process holds it.
        OSError: there is no such folder.
    """
    in_use = f"{folder} is being written by another process: wait until it has ended, or take another folder."
    with ExitStack() as stack:
        if sys.platform == "win32":  # no lock on a folder there
            from filelock import FileLock, Timeout

            try:
                stack.enter_context(FileLock(folder / ".lock", timeout=0))
            except Timeout:
                raise WorldError(in_use) from None
        else:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, descriptor)
            if not try_lock(descriptor) or not os.path.samestat(os.fstat(descriptor), folder.stat()):
                raise WorldError(in_use)
        yield


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, where the system has that."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # a file system that does not
            raise OSError(error.errno, error.strerror, str(folder)) from None
    finally:
        os.close(descriptor)


def write_whole(path: Path, write: Write) -> None:
    """Write a file that is either all there or not there: `write` gets a temporary file, which then takes the name.

    A link is replaced, not followed.

    Raises:
        OSError: names the path; nothing half-written stays.
    """
    with staged(path, write) as temporary:
        temporary.replace(path)
        sync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes, whole."""
    write_whole(path, lambda file: file.write(data))


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, whole."""
    write_bytes(path, text.encode(errors="replace"))


def json_text(value: object) -> str:
    """A value as indented JSON.

    Raises:
        ValueError: it holds not-a-number or an infinity, which JSON has not.
    """
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def write_json(path: Path, value: object) -> None:
    """Write indented JSON, whole; errors as of `json_text`."""
    write_text(path, json_text(value))
