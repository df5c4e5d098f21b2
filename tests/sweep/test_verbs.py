"""`cifar sweep` and `cifar train --seeds`: what is refused, in one sentence, and leaves nothing behind."""

import errno
from pathlib import Path

import pytest

pytest.importorskip("optuna")

from optuna.storages.journal import JournalFileBackend

from cifar import sweep
from cifar.cli import app, run_app

CNN = ("-m", "cnn", "--data", "sample")


@pytest.fixture(autouse=True)
def in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def cifar(*words: str) -> int:
    return run_app(app, words, program="cifar")


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence on standard error."""
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cifar: ")]
    return line


@pytest.mark.parametrize(
    "words, expected",
    [
        (("new", "study", *CNN), "one of --seeds N, --folds K or --search"),
        (("new", "study", *CNN, "--seeds", "2", "--folds", "2"), "one of --seeds N, --folds K or --search"),
        (("new", "study", *CNN, "--search", "lr=0.1..0.2"), "--search and --trials go together"),
        (("new", "study", *CNN, "--seeds", "2", "--trials", "3"), "--search and --trials go together"),
        (("new", "study", *CNN, "--folds", "0"), "2 folds or more"),
        (("new", "study", *CNN, "--folds", "1"), "num_folds is 1"),
        (("new", "study", *CNN, "--seeds", "1"), "give a number from 2"),
        (("new", "study", "--seeds", "2"), "Name a model"),
        (("new", "study", "-m", "cnn", "--seeds", "2", "--data", "absent"), "There is no file or folder absent"),
        (("new", "study", *CNN, "--seeds", "2", "--storage", "sqlite:///a.db"), "SQLite has let several workers"),
        (("work", "study"), "study holds no study: `cifar sweep new study -m MODEL` begins one"),
        (("show", "study"), "study holds no study"),
        (("work", "study", "-d", "tpu"), "There is no device"),
    ],
)
def test_what_is_refused_leaves_nothing(
    words: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cifar("sweep", *words) == 2
    assert expected in sentence(capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_no_new_study(capsys: pytest.CaptureFixture[str]) -> None:
    assert cifar("sweep", "new", "study", *CNN, "--seeds", "2") == 0
    before = Path("study/study.json").read_bytes()
    for words in (("sweep", "new", "study", *CNN, "--seeds", "3"), ("train", *CNN, "--seeds", "3", "-s", "study")):
        assert cifar(*words) == 2
        assert "`cifar sweep work study` goes on" in capsys.readouterr().err
    for words in (("train", "--resume", "study"), ("evaluate", "study"), ("predict", "study", "a.png")):
        assert cifar(*words) == 2
        assert "study" in sentence(capsys)
    assert Path("study/study.json").read_bytes() == before
    for words in (("compare", "study"), ("report", "study")):
        assert cifar(*words) == 2
        assert "no tested run yet: `cifar sweep work study` makes them" in sentence(capsys)
    assert cifar("train", *CNN, "--seeds", "2", "-c") == 2
    assert "--seeds goes neither with" in sentence(capsys)
    assert cifar("train", *CNN, "--seeds", "2", "--devices", "2", "-d", "cpu") == 2
    assert "--seeds trains each seed in one process" in sentence(capsys)
    assert cifar("train", "--resume", "study", "--seeds", "2") == 2
    assert "--resume continues study by its own recipe" in sentence(capsys)
    Path("other").mkdir()
    Path("other/notes").touch()
    assert cifar("sweep", "new", "other", *CNN, "--seeds", "2") == 2
    assert "other is not empty: name another folder" in sentence(capsys)


def test_the_test_set_waits_for_the_end_of_a_search(capsys: pytest.CaptureFixture[str]) -> None:
    assert cifar("sweep", "new", "study", *CNN, "--search", "lr=0.1..0.2", "--trials", "3") == 0
    assert cifar("sweep", "show", "study", "--test") == 2
    assert "Nothing is chosen yet: 3 of 3 trials are not at their end" in sentence(capsys)
    assert cifar("sweep", "new", "seeds", *CNN, "--seeds", "2") == 0
    assert cifar("sweep", "show", "seeds", "--test") == 2
    assert "--test is for a search" in sentence(capsys)
    assert cifar("compare", "study", "study") == 2
    assert "`cifar sweep show study --test` evaluates the best one" in sentence(capsys)


def test_a_damaged_study_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cifar("sweep", "new", "study", *CNN, "--seeds", "2") == 0
    path = Path("study/study.json")
    whole = path.read_text()
    for damaged in (whole.replace("seeds", "sheds"), whole[:-5], "{}"):
        path.write_text(damaged)
        for verb in ("work", "show"):
            assert cifar("sweep", verb, "study") == 1
            assert "study.json was changed or damaged" in sentence(capsys)


def test_without_optuna_the_command_that_installs_it_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sweep, "find_spec", lambda _: None)
    for words in (("sweep", "new", "study"), ("train", "-s", "study")):
        assert cifar(*words, *CNN, "--seeds", "2") == 1
        assert 'the package optuna is absent: pip install "cifar[sweep]"' in sentence(capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert cifar("sweep", "new", "study", *CNN, "--seeds", "2") == 0

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(JournalFileBackend, "append_logs", full)
    assert cifar("sweep", "work", "study") == 1
    assert "The study's journal.log cannot be used (No space left on device)" in sentence(capsys)
