"""Signals, encodings, and streams that are closed, full or gone; a current folder and a home that are not there."""

import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import cifar
from cifar.cli import app, display, run_app, terminal
from cifar.cli.terminal import ASCII, FALLBACK, ONE_SIGNAL, once, show_whatever_encoding
from cifar.errors import WorldError
from cifar.files import cache_folder

ENCODINGS = ["ascii", "cp1252", "latin-1", "cp437", "cp932", "koi8-r", "gb18030", "utf-8", "utf-16", "big5"]
PACKAGE = Path(cifar.__file__).parent
ROOT = PACKAGE.parent


def run_in(encoding: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    """The exit code of a command, and what it prints on streams of an encoding."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2)]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        code = run_app(app, arguments, program="cifar")
    for stream in streams:
        stream.flush()
    return code, "".join(stream.buffer.getvalue().decode(encoding) for stream in streams)  # type: ignore[attr-defined]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_help_and_errors_in_every_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code, text = run_in(encoding, monkeypatch, "train", "--help")
    assert code == 0
    assert "--save-folder" in text
    code, text = run_in(encoding, monkeypatch, "train", "-m", "naïve→\udcff")
    assert code == 2
    assert "There is no model" in text


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_no_sign_that_we_print_ends_a_command(encoding: str) -> None:
    signs = "".join(set(re.findall("[^ -~\n]", "".join(path.read_text() for path in PACKAGE.rglob("*.py")))))
    stream = io.TextIOWrapper(io.BytesIO(), encoding, FALLBACK)
    stream.write(signs + "\udcff")
    stream.flush()
    assert stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


def test_signs_of_messages_have_plain_letters() -> None:
    text = "".join(path.read_text() for path in (PACKAGE / "cli").glob("*.py") if path.name != "terminal.py")
    assert set(re.findall("[^ -~\n]", text)) <= set(ASCII)
    assert "0.1 → 0.2, 2 × 3 …".encode("ascii", FALLBACK) == b"0.1 -> 0.2, 2 x 3 ..."


@pytest.mark.parametrize("name, code", [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_signals_unwind_and_have_their_exit_codes(name: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    steps = []
    command = typer.Typer()

    @command.command()
    def sleep() -> None:
        try:
            signal.raise_signal(getattr(signal, name))
        finally:
            steps.append("tidied up")

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert run_app(command, [], program="sleep") == code
    assert steps == ["tidied up"]
    assert capsys.readouterr().err.strip() == "Interrupted."
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


@pytest.mark.parametrize("when", ["while it unwinds", "while it is told", "at the end"])
def test_a_second_signal_prints_no_traceback(
    when: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "ONE_SIGNAL", 0)  # a person's second, half a second later
    command = typer.Typer()

    @command.command()
    def stop() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            if when == "while it unwinds":
                signal.raise_signal(signal.SIGTERM)

    if when == "while it is told":
        monkeypatch.setattr(display, "say", lambda _: signal.raise_signal(signal.SIGTERM))
    if when == "at the end":
        monkeypatch.setattr(terminal, "exit_code", lambda _: signal.raise_signal(signal.SIGTERM) or 143)
        monkeypatch.setattr(display, "say", lambda _: signal.raise_signal(signal.SIGTERM))
    assert run_app(command, [], program="stop") == 143
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("pause, times", [(0.0, 1), (2 * ONE_SIGNAL, 2)])
def test_a_signal_that_is_sent_twice_is_heard_once(pause: float, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []
    clock = iter([100.0, 100.0 + pause])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    hear = once(lambda number, _: heard.append(number))
    hear(signal.SIGTERM, None)
    hear(signal.SIGTERM, None)
    assert heard == [signal.SIGTERM] * times


EARLY = """
import builtins, os, signal
real = builtins.__import__
def interrupted(name, *arguments):
    if name == "typer":
        os.kill(os.getpid(), signal.SIGINT)
    return real(name, *arguments)
builtins.__import__ = interrupted
import runpy, sys
sys.argv = ["cifar", "--help"]
runpy.run_path(PROGRAM, run_name="__main__")
"""


@pytest.mark.parametrize("program", ["train.py", "cifar/__main__.py"])
def test_ctrl_c_during_the_imports_prints_no_traceback(program: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", EARLY.replace("PROGRAM", repr(str(ROOT / program)))],
        capture_output=True,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # as in a terminal
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")


def test_a_full_disk_behind_standard_output_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = typer.Typer()
    command.command()(lambda: print("result"))
    with Path("/dev/full").open("w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert run_app(command, [], program="show") == 1
    assert capsys.readouterr().err == "show: standard output: No space left on device.\n"


CLOSED = """
import os, sys
from cifar.cli.terminal import prepare
prepare()
file = open(sys.argv[1], "w")
print("a result", flush=True)
print("a remark", file=sys.stderr)
os.write(2, b"of a library")
print(file.fileno() > 2, repr(sys.stdin.read()), sys.stderr.isatty(), file=file)
"""


def test_closed_streams_are_not_taken_by_files(tmp_path: Path) -> None:
    shell = '"$0" -c "$1" "$2" <&- >&- 2>&-'
    subprocess.run(["sh", "-c", shell, sys.executable, CLOSED, tmp_path / "file"], check=True)
    assert (tmp_path / "file").read_text() == "True '' False\n"


def test_remarks_that_nobody_takes_are_dropped(tmp_path: Path) -> None:
    shell = '"$0" -c "$1" "$2" </dev/null >/dev/null 2>/dev/full'
    subprocess.run(
        ["sh", "-c", shell, sys.executable, CLOSED.replace('os.write(2, b"of a library")', ""), tmp_path / "file"],
        check=True,
    )


def test_a_current_folder_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert run_app(app, ["train", "-m", "cnn"], program="cifar") == 1
    assert "current folder cannot be used (No such file or directory)" in capsys.readouterr().err


def test_a_folder_whose_name_is_no_unicode_is_refused_before_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / os.fsdecode(b"run\xff")
    assert run_app(app, ["train", "-m", "cnn", "--data", "sample", "-s", str(folder)], program="cifar") == 2
    assert "run\\udcff is no UTF-8: choose another with --save-folder" in capsys.readouterr().err
    assert not folder.exists()


def test_without_a_home_the_cache_is_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: object) -> None:
        raise KeyError("uid not found")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for home in ("", "~/cifar"):
        monkeypatch.setenv("CIFAR_HOME", home)
        with pytest.raises(WorldError, match="no home folder: set CIFAR_HOME"):
            cache_folder()


@pytest.mark.parametrize("width, kept", [("80", True), ("1", False), ("1000000000", False), ("-3", False), ("", False)])
def test_odd_widths_are_left_out(width: str, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", width)
    show_whatever_encoding()
    assert ("COLUMNS" in os.environ) is kept


def test_pictures_whatever_the_environment_says_of_matplotlib(tmp_path: Path) -> None:
    """In a process of its own, since matplotlib looks once."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nbackend: nothing\n")
    program = (
        "from cifar.machine import plain_matplotlib; plain_matplotlib()\n"
        "from cifar.reporting.figures import new_figure, png\n"
        "figure = new_figure(2, 2, title='a_b\\udcff', note='$')\n"
        "open('picture.png', 'wb').write(png(figure))\n"
        "import matplotlib; assert matplotlib.get_backend().lower() == 'agg'"
    )
    path = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "MPLBACKEND": "module://ipympl.backend_nbagg", "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
