"""cifar.sweep.storage: addresses of databases, and the journal with its lock."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("optuna")

from cifar.errors import InputError, WorldError
from cifar.sweep.queue import open_queue
from cifar.sweep.storage import JournalLock, checked_url, url_of, url_of_new, where, without_password

RECORD = {
    "kind": "seeds", "name": "study", "recipe": {"seed": 0}, "space": {"seed": {"choices": [0, 1, 2]}}, "trials": 3,
    "storage": "",
}  # fmt: skip


@pytest.mark.parametrize(
    "typed, words",
    [
        ("sqlite:///study.db", "SQLite has let several workers train the same trial"),
        ("mysql://host/db", "not kept in mysql"),
        ("study.db", "no address of a database"),
    ],
)
def test_other_databases_are_refused(typed: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        checked_url(typed)


def test_addresses_are_kept_without_passwords() -> None:
    url = checked_url("postgres://me:hush%40@host:5433/runs?sslmode=require&password=hush&sslpassword=hush")
    assert "hush" in url
    assert without_password(url) == "postgresql+psycopg://me@host:5433/runs?sslmode=require"
    assert where(url) == "The database runs at host"
    assert without_password("") == ""


def test_what_is_typed_comes_before_the_environment_and_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    record = {"storage": "postgresql+psycopg://recorded/runs"}
    careful = "?require_auth=scram-sha-256%2Cnone"  # with an address that was not typed
    assert url_of(record, "") == "postgresql+psycopg://recorded/runs" + careful
    careless = {"storage": "postgresql://recorded/runs?require_auth=password"}
    assert url_of(careless, "") == "postgresql+psycopg://recorded/runs" + careful
    assert url_of_new("") == ""
    monkeypatch.setenv("CIFAR_STORAGE", "postgresql://variable/runs")
    assert url_of(record, "") == url_of_new("") == "postgresql+psycopg://variable/runs"
    assert url_of(record, "postgresql://typed/runs") == "postgresql+psycopg://typed/runs"
    assert url_of({"storage": ""}, "") == ""  # a study that has its journal keeps it
    with pytest.raises(InputError, match="leave --storage out"):
        url_of({"storage": ""}, "postgresql://typed/runs")


@pytest.mark.parametrize("size", [0, 1, 100, 4095, 4096, 10_000])
def test_a_record_that_was_written_in_part_is_cut_off(size: int, tmp_path: Path) -> None:
    path, whole = tmp_path / "journal.log", b'{"a": 1}\n' * 3
    path.write_bytes(whole + b"x" * size)
    lock = JournalLock(path)
    lock.acquire()
    lock.release()
    assert path.read_bytes() == whole
    path.write_bytes(b"x" * size)
    lock.acquire()
    lock.release()
    assert path.read_bytes() == b""


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    path.touch()
    code = "import sys, fcntl, time; file = open(sys.argv[1], 'r+b'); fcntl.flock(file, 2); print('held', flush=True)"
    with subprocess.Popen([sys.executable, "-c", f"{code}; time.sleep(60)", path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        holder.send_signal(signal.SIGKILL)
    lock = JournalLock(path)
    lock.acquire()  # at once, where Optuna's own would wait for 30 seconds
    lock.release()


def test_a_queue_that_was_made_in_part_is_completed(tmp_path: Path) -> None:
    queue = open_queue(tmp_path, RECORD | {"trials": 1}, url="", say=print)
    assert len(queue.study.trials) == 1
    for _ in range(2):
        queue = open_queue(tmp_path, RECORD, url="", say=print)
        fixed = [trial.system_attrs["fixed_params"] for trial in queue.study.trials]
        assert fixed == [{"seed": 0}, {"seed": 1}, {"seed": 2}]


def test_a_damaged_journal_is_one_sentence(tmp_path: Path) -> None:
    open_queue(tmp_path, RECORD, url="", say=print)
    path = tmp_path / "journal.log"
    lines = path.read_text().splitlines()
    for damaged in ("{", json.dumps({"op_code": 99}), json.dumps({"op_code": 0}), "[]"):
        path.write_text("\n".join([lines[0], damaged, *lines[1:]]) + "\n")
        with pytest.raises(WorldError, match="is damaged: stop all workers and remove it"):
            open_queue(tmp_path, RECORD, url="", say=print)
    path.unlink()
    assert len(open_queue(tmp_path, RECORD, url="", say=print).study.trials) == 3
