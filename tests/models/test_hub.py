"""The hub path with huggingface_hub's own client, against a local server that speaks the hub's protocol."""

import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from hub_server import TINY, Hub, hub_environment
from safetensors.torch import load, load_file

from cifar.errors import WorldError
from cifar.models import weights
from cifar.models.pretrained import previt
from cifar.models.weights import ask_hub


@pytest.fixture
def at_hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], None]:
    """Makes the hub's client ask this address and keep in this folder, as in a Python started with these settings."""
    from huggingface_hub import constants

    def settle(hub: str, home: Path) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", hub)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    return settle


def build_offline(path: Path, *, hub: str, home: Path) -> dict[str, torch.Tensor]:
    """The weights of a network that is built in a fresh Python which must not ask the hub."""
    code = (
        "from safetensors.torch import save_file; from cifar.models.pretrained import previt; "
        f"save_file(previt(model_name={TINY!r}).state_dict(), {str(path)!r})"
    )
    environment = hub_environment(hub, home, offline=True)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)
    return within(load_file(path))


def train(folder: Path, *, hub: str, home: Path) -> tuple[dict[str, torch.Tensor], str]:
    """A short frozen run as typed in a terminal; the weights of its network, and what the terminal showed."""
    pexpect = pytest.importorskip("pexpect")
    command = f"-m cifar train -m previt --set model_name={TINY} --set image_size=32 --freeze -e 1 -d cpu"
    screen, code = pexpect.run(
        " ".join([sys.executable, command, "--data sample -s", str(folder)]),
        env=hub_environment(hub, home), withexitstatus=True, timeout=120, encoding="utf-8",
    )  # fmt: skip
    assert code == 0, screen
    return within(load_file(folder / "model.safetensors")), screen


def within(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of timm's network but for its head and its positions, which are made for another size."""
    names = {name: name.removeprefix("network.") for name in state if name.startswith("network.")}
    return {new: state[old] for old, new in names.items() if not new.startswith(("head", "pos_embed"))}


def same(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_from_the_hub_then_from_its_cache(
    hub: Hub, tiny_weights: bytes, tmp_path: Path, at_hub: Callable[[str, Path], None]
) -> None:
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
    offline = build_offline(tmp_path / "offline.safetensors", hub=hub.url, home=home)
    at_hub(hub.url, home)
    from_cache = within(previt(model_name=TINY).state_dict())
    at_hub(hub.url, tmp_path / "none")
    (tmp_path / "tiny.safetensors").write_bytes(tiny_weights)
    from_file = within(previt(model_name=TINY, weights=str(tmp_path / "tiny.safetensors")).state_dict())
    assert hub.requests == []
    assert len(first) > 50
    assert same(first, offline)
    assert same(first, from_cache)
    assert same(first, from_file)


def test_a_wrong_byte_is_found_and_fetched_again(
    hub: Hub, tiny_weights: bytes, tmp_path: Path, at_hub: Callable[[str, Path], None]
) -> None:
    at_hub(hub.url, tmp_path)
    hub.body = tiny_weights[:-9] + bytes([tiny_weights[-9] ^ 1]) + tiny_weights[-8:]
    with pytest.raises(
        WorldError, match=rf"^model\.safetensors from the hub has the SHA-256 .* {hub.sha256}: run again\.$"
    ):
        previt(model_name=TINY)
    hub.body = tiny_weights
    assert same(within(previt(model_name=TINY).state_dict()), whole(tiny_weights))


def whole(content: bytes) -> dict[str, torch.Tensor]:
    """The tensors in a file of timm's network, as of `within`."""
    return within({f"network.{name}": tensor for name, tensor in load(content).items()})


def test_what_the_hub_refuses_is_one_sentence(hub: Hub, tmp_path: Path, at_hub: Callable[[str, Path], None]) -> None:
    at_hub(hub.url, tmp_path)
    sentence = r"^The weights of test_vit2\.r160_in1k could not be fetched \([^\n]*--weights FILE[^\n]*$"
    with pytest.raises(WorldError, match=sentence):
        previt(model_name="test_vit2.r160_in1k")


def test_without_a_hub_one_sentence_says_what_to_do_in_time(
    tmp_path: Path, at_hub: Callable[[str, Path], None]
) -> None:
    at_hub("http://127.0.0.1:9", tmp_path)
    start = time.monotonic()
    with pytest.raises(WorldError, match=rf"^The weights of {re.escape(TINY)} cannot be had") as raised:
        previt(model_name=TINY)
    assert time.monotonic() - start < 10
    assert "--weights FILE" in str(raised.value)
    assert "HF_HOME" in str(raised.value)
    assert "\n" not in str(raised.value)


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
