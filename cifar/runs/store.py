"""How files get into a run folder and out of it: created whole, locked, durable, with checksums that are verified.

checksums.json gives for each file the SHA-256 of what it held before the last change and of what it holds after. It is
written before the files take their names, so that a process may end at any moment and every file still verifies. What
can be made again from these files (pictures, the report, the card) has no checksum.
"""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from cifar.errors import InputError, WorldError
from cifar.files import (
    Write,
    json_text,
    locked,
    read_regular,
    remove_leftovers,
    staged,
    sync_folder,
    temporary_name,
    write_bytes,
    write_text,
)
from cifar.runs.names import (
    CARD,
    CHECKPOINT,
    CHECKSUMS,
    EXPORT,
    EXPORTED,
    LOGS,
    MARKERS,
    METRICS,
    OF_EVALUATIONS,
    ONNX,
    ONNX_INT8,
    PICTURES,
    RECIPE,
    REPORT,
    WEIGHTS,
    plain_name,
)
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


@contextmanager
def new_run(folder: Path, *, overwrite: bool) -> Iterator[Callable[[Mapping[str, Content]], None]]:
    """Hold a folder for a new run; nothing is removed from it or written to it until the run is created.

    Args:
        folder: of the run; made if it is absent, and removed again if no run was created.
        overwrite: replace what a former run left in it.

    Yields:
        a function that creates the run whole from its first files: they appear by one rename of a folder. A folder
        that was there before stays, since it may hold files of the user's, be somebody's current folder or a mounted
        disk: there they appear one by one, and the last of them makes it a run.

    Raises:
        InputError: it cannot be made or written, or holds something and `overwrite` is false.
        WorldError: another process is writing it.
    """
    with ExitStack() as stack:
        fresh = not folder.exists() and os.name != "nt"  # where no folder can be renamed that has an open file
        try:
            absent = [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder))
            stack.callback(remove_empty, absent)
            remove_leftovers(folder)
            remove_leftovers(folder.parent, of=folder.name)
            check_free(folder, overwrite=overwrite)
        except OSError as error:
            kind = WorldError if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO) else InputError
            raise kind(
                f"Cannot write to the folder {folder} ({error.strerror or error}): choose another with --save-folder."
            ) from None

        def create(contents: Mapping[str, Content]) -> None:
            with explained(folder):
                if fresh:
                    stack.enter_context(appeared(folder, contents))
                else:
                    clear(folder)
                    write_files(folder, contents)
                sync_folder(folder.parent)

        yield create


@contextmanager
def appeared(folder: Path, contents: Mapping[str, Content]) -> Iterator[None]:
    """Put the first files of a run into its empty folder, all at once: by one rename of a folder, which is held."""
    stage = temporary_name(folder)
    try:
        stage.mkdir()
        with locked(stage):  # the lock holds under its later name, too
            write_files(stage, contents)
            stage.replace(folder)
            yield
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def remove_empty(folders: list[Path]) -> None:
    """Remove folders that are empty, innermost first."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def check_free(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that holds something, or that cannot be written.

    What was left by a process that ended before its run was created is no reason.

    Raises:
        InputError: names the flags that help.
        OSError: it cannot be written.
    """
    names = {entry.name for entry in folder.iterdir()}
    if names - {RECIPE, CHECKSUMS, ".lock"} and not overwrite:
        raise InputError(
            f"The folder {folder} is not empty: give --overwrite, --resume {folder} or another --save-folder."
        )
    with tempfile.TemporaryFile(dir=folder):
        pass


def clear(folder: Path) -> None:
    """Remove a former run's files, its logs included, and nothing that a run did not write.

    What makes the folder a run goes first, so that a process may end at any moment.
    """
    if (folder / RECIPE).exists():
        for name in LOGS:
            shutil.rmtree(folder / name, ignore_errors=True)
    for name in MARKERS:
        (folder / name).unlink(missing_ok=True)
    made_of_them = (PICTURES[0], REPORT, CARD, ONNX, ONNX_INT8, EXPORT)
    for name in (METRICS, WEIGHTS, CHECKPOINT, *made_of_them, CHECKSUMS, RECIPE):
        (folder / name).unlink(missing_ok=True)
    for path in sorted(folder.iterdir()):
        if plain_name(path.name) in OF_EVALUATIONS and path.is_file():
            path.unlink()
    if (folder / EXPORTED / EXPORT).exists():
        clear(folder / EXPORTED)
        remove_empty([folder / EXPORTED])
    for fold in sorted(folder.glob("fold-*")):
        clear(fold)
        remove_empty([fold])


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
