"""The hub path with huggingface_hub's own client, against a local server that speaks the hub's protocol."""

import hashlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from safetensors.torch import save

from cifar.errors import WorldError
from cifar.models import weights
from cifar.models.pretrained import create, previt
from cifar.models.weights import ask_hub

TINY = "test_vit.r160_in1k"  # timm's own, for tests: 0.4 million parameters
COMMIT = "c0ffee" * 6 + "c0ff"


class Hub(ThreadingHTTPServer):
    """A hub with one repository, timm/NAME, that holds model.safetensors in the large-file store.

    Attributes:
        body: what the store sends, which may differ from what its SHA-256 promises.
        break_at: close the next download's connection after so many bytes; 0 does not.
        requests: method, path and Range header of everything that was asked.
    """

    daemon_threads = True

    def __init__(self, body: bytes) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.body = body
        self.sha256 = hashlib.sha256(body).hexdigest()
        self.break_at = 0
        self.requests: list[tuple[str, str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class HubHandler(BaseHTTPRequestHandler):
    """Answers as the hub does: metadata and a redirect from the repository, bytes and ranges from the store."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub = self.server
        hub.requests.append((self.command, self.path, self.headers.get("Range")))
        if self.path == "/":
            self.answer(200, {})
        elif self.path == f"/timm/{TINY}/resolve/main/model.safetensors":
            linked = {"X-Linked-Etag": f'"{hub.sha256}"', "X-Linked-Size": str(len(hub.body))}
            store = (
                f"http://localhost:{hub.server_port}"  # another host, as the hub's: its client asks no metadata there
            )
            self.answer(302, {"Location": f"{store}/store/{hub.sha256}", "X-Repo-Commit": COMMIT, **linked})
        elif self.path == f"/store/{hub.sha256}":
            self.send_bytes()
        elif self.path.startswith(f"/timm/{TINY}/"):
            self.answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            self.answer(404, {"X-Error-Code": "RepoNotFound"})

    def send_bytes(self) -> None:
        hub, start = self.server, 0
        asked = self.headers.get("Range")
        if asked:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
        part = hub.body[start:]
        headers = {"ETag": f'"{hub.sha256}"', "Content-Length": str(len(part)), "Accept-Ranges": "bytes"}
        headers["Content-Disposition"] = 'inline; filename="model.safetensors";'  # what the progress bar shows
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(hub.body) - 1}/{len(hub.body)}"
        if hub.break_at and self.command == "GET":
            part, hub.break_at, self.close_connection = part[: hub.break_at], 0, True
        self.answer(206 if asked else 200, headers, part)


@pytest.fixture(scope="module")
def tiny_weights() -> bytes:
    # 25 MB, since the client keeps what it has in pieces of 10 MiB.
    padding = {"padding": "x" * 24_000_000}
    return save(create(TINY).state_dict(), padding)


@pytest.fixture
def hub(tiny_weights: bytes) -> Iterator[Hub]:
    with Hub(tiny_weights) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def hub_environment(hub: str, home: Path, *, offline: bool = False) -> dict[str, str]:
    """Of a fresh Python: the hub's client reads its environment once, when it is imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
    return environment | {"HF_ENDPOINT": hub, "HF_HOME": str(home), "HF_HUB_OFFLINE": str(int(offline))}


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
