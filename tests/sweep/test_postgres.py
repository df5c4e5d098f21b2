"""A study whose queue is in PostgreSQL: as with the journal, also while the server is away; no password is written."""

import gc
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

pytest.importorskip("optuna")
pytest.importorskip("psycopg")

from optuna.trial import TrialState
from postgres_server import PASSWORD, Postgres, programs, running_postgres

from cifar.cli import app, run_app
from cifar.errors import WorldError
from cifar.runs import read_study
from cifar.sweep.queue import end, open_queue, taken_trial

pytestmark = [
    pytest.mark.usefixtures("blank_pictures"),
    pytest.mark.skipif(programs() is None, reason="PostgreSQL is not installed: apt-get install postgresql"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with running_postgres() as running:
        yield running


def cifar(*words: str) -> int:
    return run_app(app, words, program="cifar")


def written_below(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_study_is_done_and_no_password_is_written(
    server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ("-m", "cnn", "-e", "1", "--data", "sample", "--seeds", "2")
    assert cifar("sweep", "new", "typed", *flags, "--storage", server.url) == 0
    monkeypatch.setenv("CIFAR_STORAGE", server.url)
    assert cifar("sweep", "new", "variable", *flags) == 0
    monkeypatch.delenv("CIFAR_STORAGE")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert cifar("sweep", "work", "typed") == 0
    assert cifar("sweep", "show", "variable") == 0
    printed = capsys.readouterr()
    assert cifar("sweep", "show", "typed", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["state"], row["values"]) for row in rows] == [("done", {"seed": 0}), ("done", {"seed": 1})]
    assert not (tmp_path / "typed" / "journal.log").exists()
    for text in (written_below(tmp_path), (printed.out + printed.err).encode()):
        assert PASSWORD.encode() not in text
        assert quote(PASSWORD).encode() not in text
    monkeypatch.setenv("PGPASSWORD", "wrong")
    assert cifar("sweep", "show", "typed") == 1
    assert "password authentication failed" in capsys.readouterr().err


@contextmanager
def away(server: Postgres) -> Iterator[None]:
    """The server goes down, and comes up again while the block waits for it."""
    server.stop()
    starting = threading.Timer(0.5, server.start)
    starting.start()
    yield
    starting.join()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of connections that were cut off
def test_a_server_that_is_restarted_is_waited_for(
    server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    search = ("--search", "lr=0.001..0.1:log", "--trials", "3")
    assert cifar("sweep", "new", "study", "-m", "cnn", *search, "--storage", server.url) == 0
    said: list[str] = []
    queue = open_queue(tmp_path / "study", read_study(tmp_path / "study"), url=server.url, say=said.append)
    with away(server), taken_trial(queue, worker={}) as trial:
        assert trial
        assert trial.number == 0
    (sentence,) = said
    assert sentence.startswith(f"The database cifar at {server.folder} does not answer (connection")
    assert sentence.endswith("); it is asked again for 10 minutes.")
    with taken_trial(queue, worker={}) as again:
        assert again
        assert again.params == trial.params
        with away(server):
            queue = open_queue(tmp_path / "study", queue.record, url=server.url, say=said.append, patience=60)
        with away(server):
            end(queue, again, state=TrialState.COMPLETE, accuracy=0.5)
    states = [trial.state for trial in queue.study.get_trials()]
    assert states == [TrialState.COMPLETE, TrialState.WAITING, TrialState.WAITING]
    server.stop()
    assert cifar("sweep", "show", "study", "--storage", server.url) == 1
    assert "start it, or give its address with --storage" in capsys.readouterr().err
    with pytest.raises(WorldError, match="cannot be used"):
        open_queue(tmp_path / "study", queue.record, url=server.url, say=said.append, patience=0.5)
    server.start()
    gc.collect()  # so that they are noticed here
