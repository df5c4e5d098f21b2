"""Where the queue of a study is kept: Optuna's journal in its folder, or PostgreSQL."""

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from cifar.errors import InputError, WorldError
from cifar.runs import JOURNAL

if sys.platform != "win32":
    import fcntl

VARIABLE = "CIFAR_STORAGE"
DATABASE_ERRORS = (StorageInternalError, SQLAlchemyError)
PATIENCE = 600.0  # seconds that a database may be away, as while it is restarted
Result = TypeVar("Result")
FORM = "postgresql+psycopg://HOST/DATABASE"


class JournalLock(JournalFileOpenLock):
    """A lock on the journal that ends with its process; Optuna's own stay for 30 seconds where one is killed.

    A record that a killed process wrote in part is cut off before the next one is written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path
        self._file: IO[bytes] | None = None

    def acquire(self) -> bool:
        self._file = self._path.open("r+b")
        if sys.platform != "win32":
            fcntl.flock(self._file, fcntl.LOCK_EX)
        cut_partial_record(self._file)
        return True

    def release(self) -> None:
        assert self._file, "it is held"
        self._file.close()
        self._file = None


def cut_partial_record(file: IO[bytes]) -> None:
    """Cut off the end of a file after its last complete line."""
    size = file.seek(0, os.SEEK_END)
    tail, start = b"", size
    while start and b"\n" not in tail:
        start = max(0, start - 4096)
        file.seek(start)
        tail = file.read(size - start)
    whole = start + tail.rfind(b"\n") + 1
    if whole < size:
        file.truncate(whole)


def open_storage(folder: Path, url: str) -> BaseStorage:
    """The storage of a study.

    Args:
        folder: of the study.
        url: as of `with_password`; "" is the journal.

    Raises:
        WorldError: the driver is absent.
        SQLAlchemyError, OSError: it cannot be reached.
    """
    if not url:
        path = folder / JOURNAL
        return JournalStorage(JournalFileBackend(str(path), lock_obj=JournalLock(path)))
    try:
        # A connection for each question: none is held by hundreds of workers for hours, or outlives a restart.
        return RDBStorage(url, engine_kwargs={"poolclass": NullPool, "connect_args": {"connect_timeout": 10}})
    except ImportError:
        raise WorldError('PostgreSQL needs the package psycopg: pip install "cifar[sweep]".') from None


def url_of_new(typed: str) -> str:
    """The address of the database for a new study, with its password where one was given; "" is the journal.

    Args:
        typed: of --storage; CIFAR_STORAGE is the default.

    Raises:
        InputError: as of `checked_url`.
    """
    return checked_url(typed or os.environ.get(VARIABLE, ""))


def url_of(record: Mapping[str, Any], typed: str) -> str:
    """The address of the database of a study, with its password where one was given; "" is the journal.

    Args:
        record: what study.json holds.
        typed: of --storage; CIFAR_STORAGE is the default, and then the record.

    Raises:
        InputError: as of `checked_url`; or the queue is the journal.
    """
    if not record["storage"]:
        if typed:
            raise InputError("The queue of this study is the journal in its folder: leave --storage out.")
        return ""
    if chosen := typed or os.environ.get(VARIABLE, ""):
        return checked_url(chosen)
    # The study may be a stranger's: PGPASSWORD must not be sent to a server that asks for it as it is.
    url = make_url(checked_url(record["storage"])).update_query_dict({"require_auth": "scram-sha-256,none"})
    return url.render_as_string(hide_password=False)


def new_name(folder: Path, url: str) -> str:
    """A name for the study of a folder that no other study in its storage has."""
    return f"{folder.resolve().name}-{secrets.token_hex(4)}" if url else "study"


def checked_url(text: str) -> str:
    """An address of PostgreSQL in the form that SQLAlchemy takes; "" stays.

    Raises:
        InputError: it is none; says what to type.
    """
    if not text:
        return ""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise InputError(f"That is no address of a database: give --storage {FORM}, or leave it out.") from None
    kind = url.drivername.partition("+")[0]
    if kind == "sqlite":
        raise InputError(
            "SQLite has let several workers train the same trial: leave --storage out for the journal in the study's "
            f"folder, or give PostgreSQL, {FORM}."
        )
    if kind not in ("postgresql", "postgres"):
        raise InputError(f"A queue is not kept in {kind}: leave --storage out for the journal, or give {FORM}.")
    return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def without_password(text: str) -> str:
    """The address as it may be written and shown: PostgreSQL's own PGPASSWORD and ~/.pgpass serve as well."""
    if not text:
        return ""
    url = make_url(text)
    query = {name: value for name, value in url.query.items() if "pass" not in name.lower()}
    open_url = URL.create(url.drivername, url.username, None, url.host, url.port, url.database, query)
    return open_url.render_as_string(hide_password=False)


def where(text: str) -> str:
    """The storage in a few words, to begin a sentence."""
    if not text:
        return "The journal in its folder"
    url = make_url(text)
    return f"The database {url.database} at {url.host or url.query.get('host', 'this machine')}"


def check_storage(url: str, *, say: Callable[[str], object]) -> None:
    """Refuse a database that cannot be used, before anything is made; "" is the journal.

    Raises:
        WorldError: says why.
    """
    if url:
        patiently(lambda: open_storage(Path(), url).remove_session(), url=url, say=say, seconds=0)


def patiently(
    action: Callable[[], Result], *, url: str, say: Callable[[str], object], seconds: float = PATIENCE
) -> Result:
    """What an action gives that may be repeated; while the database does not answer, it is tried again.

    Args:
        action: reads or changes the queue.
        url: of the database; "" is the journal.
        say: is told once that the database is waited for.
        seconds: how long.

    Raises:
        WorldError: the database has not answered in this time, or the journal cannot be written.
    """
    begun, pause = time.monotonic(), 1.0
    while True:
        try:
            return action()
        except DATABASE_ERRORS as error:
            if time.monotonic() - begun >= seconds:
                raise WorldError(
                    f"{where(url)} cannot be used ({cause_of(error)}): start it, or give its address with --storage."
                ) from None
            if pause == 1.0:
                waiting = f"it is asked again for {seconds / 60:.0f} minutes"
                say(f"{where(url)} does not answer ({cause_of(error)}); {waiting}.")
            time.sleep(pause)
            pause = min(2 * pause, 15.0)
        except OSError as error:
            raise WorldError(
                f"The study's {JOURNAL} cannot be used ({error.strerror or error}): see to that, then start the worker "
                "again."
            ) from None


def cause_of(error: Exception) -> str:
    """What a database's driver says, in a line."""
    cause = error.__cause__ or error
    return " ".join(str(getattr(cause, "orig", cause)).split())


@contextmanager
def readable(folder: Path, url: str) -> Iterator[None]:
    """Turn whatever Optuna raises of a journal that was changed or damaged into a sentence, which names the remedy."""
    try:
        yield
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError):
        if url:
            raise
        raise WorldError(
            f"{folder / JOURNAL} is damaged: stop all workers and remove it. The next one makes the queue "
            "again, and finds what is trained already."
        ) from None
