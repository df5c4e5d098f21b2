"""How a run folder begins: claimed, then created whole; and what is removed where a run is overwritten."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from cifar.errors import InputError, WorldError
from cifar.files import locked, remove_leftovers, sync_folder, temporary_name
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
    OF_TRAINING,
    ONNX,
    ONNX_INT8,
    RECIPE,
    REPORT,
    WEIGHTS,
    plain_name,
)
from cifar.runs.store import Content, explained, write_files


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
    made_of_them = (*OF_TRAINING, REPORT, CARD, ONNX, ONNX_INT8, EXPORT)
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
