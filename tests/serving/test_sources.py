"""`load_model` of a recorded run, of an ONNX file, and of a repository on a stand-in of the hub."""

import hashlib
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from hub_server import COMMIT, hub_environment
from torch import Tensor
from untrained_runs import make_untrained

from cifar import load_model
from cifar.errors import InputError, WorldError
from cifar.serving.sources import RECORDED, find_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_untrained(tmp_path_factory.mktemp("runs") / "cnn", "cnn", "views=shift")


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randint(256, (7, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_runs_are_loaded_by_the_names_of_their_recipes(name: str) -> None:
    classifier = load_model(name, device="cpu")
    assert classifier.trained_on == "CIFAR-10"
    assert name.startswith(classifier.recipe.model.partition("-")[0].removesuffix("20"))


@pytest.mark.parametrize("pixels", ["float", "uint8"])
def test_an_onnx_file_predicts_what_its_run_does(pixels: str, run: Path, images: Tensor, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    from cifar.pipeline.export import write_onnx

    path, _ = write_onnx(run, tmp_path / "net.onnx", kind=pixels)
    expected, found = load_model(run, device="cpu").predict(images), load_model(path).predict(images)
    torch.testing.assert_close(found.probs, expected.probs, atol=1e-5, rtol=1e-4)
    assert len(load_model(path).predict(images[:0])) == 0
    (tmp_path / "other.onnx").write_bytes(b"no ONNX file")
    with pytest.raises(WorldError, match="export it anew"):
        load_model(tmp_path / "other.onnx")


def test_what_is_nowhere_is_named_with_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is not there is never looked up on the hub where its parent is there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("runs/mine", "/tmp/no/such", "no.onnx", "resnet20"):
        with pytest.raises(InputError, match=r"There is no run .* owner/name on the Hugging Face hub"):
            find_run(name)


class Repository(BaseHTTPRequestHandler):
    """The hub's answers for one repository, someone/small-net, from the files of a folder."""

    files: dict[str, bytes]
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        status, body, headers = 404, b"", {"X-Error-Code": "RepoNotFound"}
        path = self.path.partition("?")[0]
        if path == "/":
            status, headers = 200, {}
        elif path.startswith("/api/models/someone/small-net/tree/"):
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in self.files.items()
            ]
            status, body, headers = 200, json.dumps(tree).encode(), {"Content-Type": "application/json"}
        elif path.startswith("/api/models/someone/small-net"):
            siblings = [{"rfilename": name} for name in self.files]
            described = {"id": "someone/small-net", "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
            status, body, headers = 200, json.dumps(described).encode(), {"Content-Type": "application/json"}
        elif path.startswith(f"/someone/small-net/resolve/{COMMIT}/"):
            body = self.files[path.rpartition("/")[2]]
            status, headers = 200, {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": COMMIT}
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture(scope="module")
def address(run: Path) -> Iterator[str]:
    files = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} | {"README.md": b"a card"}
    handler = type("OneRepository", (Repository,), {"files": files})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_pushed_network_is_loaded_by_its_name_on_the_hub(
    address: str, run: Path, images: Tensor, tmp_path: Path
) -> None:
    code = (
        "import torch, cifar\nimages = torch.load('images.pt')\n"
        "torch.save(cifar.load_model('someone/small-net', device='cpu').predict(images).probs, 'probs.pt')\n"
    )
    torch.save(images, tmp_path / "images.pt")
    environment = hub_environment(address, tmp_path / "hf")

    def load(code: str, **changes: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code]
        return subprocess.run(command, cwd=tmp_path, env=environment | changes, capture_output=True, text=True)

    process = load(code)
    assert process.returncode == 0, process.stderr
    expected = load_model(run, device="cpu").predict(images).probs
    assert torch.equal(torch.load(tmp_path / "probs.pt"), expected)
    # Once fetched, it is there without the hub.
    (tmp_path / "probs.pt").unlink()
    process = load(code, HF_HUB_OFFLINE="1")
    assert process.returncode == 0, process.stderr
    assert torch.equal(torch.load(tmp_path / "probs.pt"), expected)
    others = code.replace("small-net", "other-net")
    for changes, words in (({}, "cannot be had from http"), ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set")):
        assert words in load(others, **changes).stderr


def test_a_wheel_holds_the_recorded_runs(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    root = Path(__file__).parent.parent.parent
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder in RECORDED.values():
        assert {
            f"cifar/recorded/{folder}/{name}" for name in ("recipe.json", "summary.json", "model.safetensors")
        } <= names
