"""How files get into a run folder and out of it: created whole, locked, durable, with checksums that are verified.

checksums.json gives for each file the SHA-256 of what it held before the last change and of what it holds after. It is
written before the files take their names, so that a process may end at any moment and every file still verifies. What
can be made again from these files (pictures, the report, the card) has no checksum.
"""

import errno
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from cifar.errors import WorldError
from cifar.files import (
    Write,
    json_text,
    locked,
    read_regular,
    remove_leftovers,
    staged,
    sync_folder,
    write_bytes,
    write_text,
)
from cifar.runs.names import CHECKSUMS
from cifar.runs.schema import parse

MAX_TEXT_BYTES = 64 * 2**20  # of a JSON or CSV file; the largest are under 1 MB
FREE_SPACE = "free some space, then repeat the command or resume the run"

Content = bytes | str | Write


@contextmanager
def open_run(folder: Path) -> Iterator[None]:
    """Hold an existing run folder for writing, and remove what dead processes left unfinished in it.

    Raises:
        WorldError: another process is writing it, or it cannot be written.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder))
            remove_leftovers(folder)
            settle(folder)
        except OSError as error:
            raise WorldError(f"{folder} cannot be written ({error.strerror or error}).") from None
        yield


def write_files(folder: Path, contents: Mapping[str, Content]) -> None:
    """Write files of a run with their checksums: all are flushed to the disk before the first takes its name.

    Args:
        folder: of the run, which this process holds.
        contents: bytes, text or a function that writes to an open file, by file name.

    Raises:
        WorldError: names the file that cannot be written; what was there before stays.
    """
    with explained(folder), ExitStack() as stack:
        temporaries = {
            name: stack.enter_context(staged(folder / name, writer_of(content))) for name, content in contents.items()
        }
        checksums = read_checksums(folder)
        for name, temporary in temporaries.items():
            checksums[name] = [*checksums.get(name, [])[-1:], sha256_of(temporary)]
        write_text(folder / CHECKSUMS, json_text(checksums))
        for name, temporary in temporaries.items():
            temporary.replace(folder / name)
        sync_folder(folder)


def write_file(path: Path, content: bytes | str) -> None:
    """Write a file that is made of a run, such as a picture or a report, whole or not at all; it has no checksum.

    A link stays, and the file that it names is written.

    Raises:
        WorldError: it cannot be written.
    """
    with explained(path):
        path = path.resolve() if path.is_symlink() else path
        remove_leftovers(path.parent, of=path.name)
        write_text(path, content) if isinstance(content, str) else write_bytes(path, content)


def remove_file(path: Path) -> None:
    """Remove a file that belongs to a run, if it is there."""
    path.unlink(missing_ok=True)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an error of the system into a sentence with the file's name and the remedy."""
    try:
        yield
    except OSError as error:
        remedy = FREE_SPACE if error.errno != errno.EACCES else "give yourself permission to write there"
        raise WorldError(f"{error.filename or path} cannot be written ({error.strerror or error}): {remedy}.") from None


def writer_of(content: Content) -> Write:
    """A function that writes this content to an open file."""
    if callable(content):
        return content
    data = content.encode() if isinstance(content, str) else content
    return lambda file: file.write(data)


def read_file(path: Path, *, limit: int = MAX_TEXT_BYTES) -> bytes:
    """The content of a file of a run, verified.

    Args:
        path: of the file.
        limit: in bytes.

    Raises:
        FileNotFoundError: it does not exist.
        WorldError: it cannot be read, or was changed since the run wrote it.
    """
    try:
        content = read_regular(path, limit=limit)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise WorldError(f"{path} cannot be read ({error.strerror or error}).") from None
    expected = read_checksums(path.parent).get(path.name)
    if expected and hashlib.sha256(content).hexdigest() not in expected:
        raise WorldError(changed(path))
    return content


def changed(path: Path) -> str:
    """The sentence about a file that is not as the run wrote it."""
    return f"{path} was changed or damaged since the run wrote it ({CHECKSUMS} has another SHA-256): restore the file."


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a run folder, verified and checked against its schema.

    Raises:
        WorldError: absent, unreadable, or not what such a file holds.
    """
    try:
        content = read_file(path)
    except FileNotFoundError as error:
        raise WorldError(f"{path}: {error.strerror}; is this the folder of a finished run?") from None
    try:
        return parse(content, name=path.name)
    except ValueError as error:
        raise WorldError(f"{path} was changed or damaged since the run wrote it: {error}.") from None


def read_checksums(folder: Path) -> dict[str, list[str]]:
    """SHA-256 of the files of a run by name, before and after its last change; empty in runs of older versions."""
    path = folder / CHECKSUMS
    try:
        return parse(read_regular(path, limit=MAX_TEXT_BYTES), name=CHECKSUMS)
    except FileNotFoundError:
        return {}
    except NotADirectoryError:
        return {}
    except OSError as error:
        raise WorldError(f"{path} cannot be read ({error.strerror or error}).") from None
    except ValueError as error:
        raise WorldError(f"{path} was changed or damaged since the run wrote it: {error}.") from None


def checksum(path: Path) -> str | None:
    """SHA-256 of a file of a run as it is now; None where it does not exist."""
    return sha256_of(path) if path.is_file() else None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def settle(folder: Path) -> None:
    """Keep in checksums.json what the files hold now, after a process may have ended between the two."""
    checksums = read_checksums(folder)
    settled = {
        name: [now] if len(known) > 1 and (now := checksum(folder / name)) in known else known
        for name, known in checksums.items()
    }
    if settled != checksums:
        with suppress(OSError):  # without room, both stay; whoever writes will say so
            write_text(folder / CHECKSUMS, json_text(settled))
