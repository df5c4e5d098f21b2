"""The hub path with huggingface_hub's own client, against a local server that speaks the hub's protocol."""

import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_server import TINY, Hub, hub_environment

from cifar.errors import WorldError
from cifar.models import weights
from cifar.models.pretrained import previt
from cifar.models.weights import ask_hub


def build(name: str, *, hub: str, home: Path) -> "subprocess.CompletedProcess[str]":
    """Build a pretrained network in a fresh Python."""
    code = f"from cifar.models.pretrained import previt; previt(model_name={name!r})"
    environment = hub_environment(hub, home)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)


def train(folder: Path, *flags: str, hub: str, home: Path, offline: bool = False) -> tuple[bytes, str]:
    """A short frozen run as typed in a terminal; its weights, and what the terminal showed."""
    pexpect = pytest.importorskip("pexpect")
    command = f"-m cifar train -m previt --set model_name={TINY} --freeze -e 2 -d cpu --data sample -s {folder}"
    screen, code = pexpect.run(
        " ".join([sys.executable, command, *flags]),
        env=hub_environment(hub, home, offline=offline), withexitstatus=True, timeout=120, encoding="utf-8",
    )  # fmt: skip
    assert code == 0, screen
    return (folder / "model.safetensors").read_bytes(), screen


def test_from_the_hub_then_from_its_cache(hub: Hub, tiny_weights: bytes, tmp_path: Path) -> None:
    """Fetched with a progress bar over a connection that breaks, kept, and used again without the hub."""
    hub.break_at = len(tiny_weights) // 2
    home = tmp_path / "hf"
    first, screen = train(tmp_path / "first", hub=hub.url, home=home)
    assert re.search(r"model\.safetensors: +100%", screen)
    ranges = [asked for method, path, asked in hub.requests if method == "GET" and path.startswith("/store")]
    assert len(ranges) == 2
    assert ranges[0] in (None, "bytes=0-")
    assert ranges[1] == f"bytes={10 * 2**20}-"
    blob = home / "hub" / f"models--timm--{TINY}" / "blobs" / hub.sha256
    assert blob.read_bytes() == tiny_weights

    hub.requests.clear()
    second, _ = train(tmp_path / "second", hub=hub.url, home=home)
    third, _ = train(tmp_path / "third", hub=hub.url, home=home, offline=True)
    assert hub.requests == []
    (tmp_path / "tiny.safetensors").write_bytes(tiny_weights)
    weights_flag = ("--weights", str(tmp_path / "tiny.safetensors"))
    fourth, _ = train(tmp_path / "fourth", *weights_flag, hub=hub.url, home=tmp_path / "none")
    assert hub.requests == []
    assert first == second == third == fourth


def test_a_wrong_byte_is_found_and_fetched_again(hub: Hub, tiny_weights: bytes, tmp_path: Path) -> None:
    hub.body = tiny_weights[:-9] + bytes([tiny_weights[-9] ^ 1]) + tiny_weights[-8:]
    wrong = build(TINY, hub=hub.url, home=tmp_path)
    sentence = wrong.stderr.strip().splitlines()[-1]
    assert sentence.startswith("cifar.errors.WorldError: model.safetensors from the hub has the SHA-256 ")
    assert sentence.endswith(f" instead of {hub.sha256}: run again.")
    hub.body = tiny_weights
    again = build(TINY, hub=hub.url, home=tmp_path)
    assert again.returncode == 0, again.stderr


def test_what_the_hub_refuses_is_one_sentence(hub: Hub, tmp_path: Path) -> None:
    done = build("vit_tiny_patch16_224.augreg_in21k", hub=hub.url, home=tmp_path)
    sentence = done.stderr.strip().splitlines()[-1]
    assert "WorldError: The weights of vit_tiny_patch16_224.augreg_in21k could not be fetched (" in sentence
    assert "--weights FILE" in sentence


def test_without_a_hub_one_sentence_says_what_to_do_in_time(tmp_path: Path) -> None:
    start = time.monotonic()
    done = build("vit_base_patch16_224.augreg_in21k", hub="http://127.0.0.1:9", home=tmp_path)
    assert time.monotonic() - start < 30  # of which imports and the network's random weights take most
    sentence = done.stderr.strip().splitlines()[-1]
    assert sentence.startswith(
        "cifar.errors.WorldError: The weights of vit_base_patch16_224.augreg_in21k cannot be had"
    )
    assert "--weights FILE" in sentence
    assert "HF_HOME" in sentence


def test_a_hub_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "HUB_SECONDS", 0.4)
    with socket.create_server(("127.0.0.1", 0)) as server:
        start = time.monotonic()
        reason = ask_hub(f"http://127.0.0.1:{server.getsockname()[1]}")
        assert reason.startswith("no ")
        assert time.monotonic() - start < 2


def test_offline_mode_asks_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(weights, "ask_hub", lambda _: pytest.fail("the hub was asked"))
    with pytest.raises(WorldError, match="HF_HUB_OFFLINE is set: connect, name a file"):
        previt(model_name=TINY, image_size=32)
