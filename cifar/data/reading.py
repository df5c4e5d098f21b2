"""Files of strangers: regular files only, so that none can hang, and limits, so that none can fill the memory."""

import os
import stat
from pathlib import Path
from typing import IO

from cifar.data import in_words
from cifar.errors import WorldError

MAX_ENTRIES = 100_000  # of a folder; all of CIFAR-10 has 60,000 images
REMEDY = "download it again, or let `cifar data` fetch CIFAR-10"


def open_regular(path: Path) -> IO[bytes]:
    """Open a file to read it; a pipe, device, socket or folder is refused at once, even where opening one would wait.

    Raises:
        WorldError: it is no regular file, or it cannot be opened.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise WorldError(f"{in_words(path)} is not a regular file and is not read: {REMEDY}.")
        # Had it become a pipe by now, opening it does not wait, and reading it gives nothing.
        return open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None


def read_limited(path: Path, limit: int) -> bytes:
    """The bytes of a regular file.

    Raises:
        WorldError: it has more bytes than the limit, or cannot be read.
    """
    with open_regular(path) as file:
        try:
            content = file.read(limit + 1)
        except OSError as error:
            raise unreadable(path, error) from None
    if len(content) > limit:
        raise WorldError(f"{in_words(path)} has more than {limit:,} bytes, which no file of CIFAR-10 has: {REMEDY}.")
    return content


def unreadable(path: Path, error: Exception) -> WorldError:
    """The error for a file or folder that the system does not give."""
    return WorldError(f"{in_words(path)} cannot be read ({getattr(error, 'strerror', None) or error}): {REMEDY}.")


def list_folder(path: Path) -> tuple[list[Path], list[Path]]:
    """The files and the folders in a folder, sorted; dot files, such as macOS leaves, are left out.

    Returns:
        everything that is no folder, pipes and devices included, since `open_regular` refuses them by name; folders.

    Raises:
        WorldError: it cannot be listed, or holds more than MAX_ENTRIES.
    """
    files: list[Path] = []
    folders: list[Path] = []
    try:
        with os.scandir(path) as entries:
            for number, entry in enumerate(entries):
                if number == MAX_ENTRIES:
                    raise WorldError(f"{in_words(path)} holds more than {MAX_ENTRIES:,} files: name CIFAR-10's folder.")
                if not entry.name.startswith("."):
                    (folders if is_folder(entry.path) else files).append(path / entry.name)
    except OSError as error:
        raise unreadable(path, error) from None
    return sorted(files), sorted(folders)


def is_folder(path: str | Path) -> bool:
    """Whether this is a folder or a link to one; False, without an error, where the system cannot say."""
    return os.path.isdir(path)  # noqa: PTH112
