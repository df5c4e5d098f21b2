"""What `cifar demo` refuses before it serves a page; tests/serving/test_demo.py tests the rest."""

import socket
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from cifar.cli import app, run_app
from cifar.errors import InputError, WorldError
from cifar.serving.demo import free_port, url_host

RECORDED = Path(__file__).parent.parent.parent / "results" / "cnn"


def test_a_taken_port_is_refused_or_skipped() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(WorldError, match=f"Port {port} is taken"):
            free_port("127.0.0.1", [port])
        assert free_port("127.0.0.1", range(port, port + 100)) > port


def test_a_host_of_another_machine_is_refused() -> None:
    with pytest.raises(InputError, match=r"203.0.113.1 is not an address of this machine"):
        free_port("203.0.113.1", [7860])


def test_hosts_are_written_as_in_urls() -> None:
    hosts = {"127.0.0.1": "127.0.0.1", "0.0.0.0": "localhost", "::": "localhost", "::1": "[::1]", "box": "box"}
    assert {host: url_host(host) for host in hosts} == hosts


def test_three_runs_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["demo", *[str(RECORDED)] * 3], program="cifar") == 2
    assert capsys.readouterr().err == "cifar: The page has room for two runs side by side: you named 3.\n"


def test_a_missing_gradio_is_reported_with_the_install_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)  # as if it were absent
    assert run_app(app, ["demo", str(RECORDED)], program="cifar") == 1
    assert capsys.readouterr().err == 'cifar: the package gradio is absent: pip install "cifar[demo]"\n'


@pytest.mark.skipif(find_spec("gradio") is None, reason="the demo needs gradio")
def test_taken_ports_other_hosts_and_other_folders_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert run_app(app, ["demo", str(RECORDED), "--port", str(port)], program="cifar") == 1
    assert f"cifar: Port {port} is taken: choose another with --port.\n" in capsys.readouterr().err
    assert run_app(app, ["demo", str(RECORDED), "--host", "203.0.113.1"], program="cifar") == 2
    assert run_app(app, ["demo", str(tmp_path)], program="cifar") == 2
    assert "is not a run folder" in capsys.readouterr().err
