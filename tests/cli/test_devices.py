"""`cifar train --devices 2` and torchrun: killed, stopped, refused; started again, and resumed by one process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from several_processes import FLAGS, ROOT, UNBROKEN, start

from cifar.cli import app, run_app

TESTS = ROOT / "tests"
DEVICES = [sys.executable, "-m", "cifar", "train", *FLAGS, "--devices", "2", "--checkpoint-minutes", "0.001"]
pytestmark = [
    pytest.mark.usefixtures("blank_pictures"),
    pytest.mark.skipif(sys.platform == "win32", reason="its processes take no signals"),
]


def started(command: list[str]) -> subprocess.Popen[str]:
    """A command, running where it finds the network."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{TESTS}"}
    return subprocess.Popen(command, cwd=TESTS, env=environment, text=True, stdout=-1, stderr=-1)


def ranks(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of a training, in the order of their ranks."""
    return sorted(psutil.Process(process.pid).children(), key=lambda child: child.environ()["RANK"])


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a file is there and its training still runs."""
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def test_a_rank_that_is_killed_changes_no_bit(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = started([*DEVICES, "-s", str(run)])
    wait_for(run / "last.ckpt", process)
    undisturbed = start([str(TESTS / "several_processes.py"), str(tmp_path), UNBROKEN], processes=2)
    ranks(process)[0].kill()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    for sentence in ("2 processes do not pay here", f"going on with {run}."):
        assert err.count(sentence) == 1, err
    assert err.count("A process of this training has ended") <= 1, err  # the launcher may end the other one first
    assert "Traceback" not in err
    printed = [other.communicate(timeout=120) for other in undisturbed]
    assert [other.returncode for other in undisturbed] == [0, 0], printed
    broken, whole = (load_file(folder / "model.safetensors") for folder in (run, tmp_path / UNBROKEN))
    assert all(torch.equal(broken[name], whole[name]) for name in whole)
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["processes"], summary["sittings"], summary["state"]) == (2, 2, "tested")
    assert summary["changes"] == []


def test_a_stopped_training_is_resumed_by_one_process(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    process = started([*DEVICES, "-s", str(run)])
    wait_for(run / "last.ckpt", process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    # Which process gets the signal first is chance: the first one says that it stops only if it is that one.
    last = f"Stopped; everything is saved. Resume with: cifar train --resume {run} --trust-code --devices 2"
    assert err.splitlines()[-1] == last
    monkeypatch.chdir(TESTS)
    assert run_app(app, ["train", "--resume", str(run), "--trust-code", "-d", "cpu"], program="cifar") == 0
    said = capfd.readouterr().err
    assert "processes is 1 from here on; it was 2." in said
    assert "not be that of an uninterrupted run, bit for bit" in said
    summary = json.loads((run / "summary.json").read_text())
    assert {change["field"] for change in summary["changes"]} == {"processes"}
    assert torch.stack([one.isfinite().all() for one in load_file(run / "model.safetensors").values()]).all()


def test_an_error_is_said_once_and_not_tried_again(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    torchrun += ["--max-restarts", "1", "-m", "cifar", "train", *FLAGS, "-s", str(tmp_path)]
    process = started(torchrun)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert err.count(f"cifar: The folder {tmp_path} is not empty") == 1
    assert "exitcode  : 2" in err
    assert list(tmp_path.iterdir()) == [tmp_path / "notes"]
