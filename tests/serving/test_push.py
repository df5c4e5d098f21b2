"""A run pushed by the hub's own client to a server that speaks its protocol, and loaded from what arrived."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import requests
import torch
import yaml
from hub_server import hub_environment
from huggingface_hub import ModelCard, constants
from upload_server import READER, WRITER, UploadHub

from cifar import load_model
from cifar.cli import app, run_app
from cifar.data.cifar10 import Dataset, load
from cifar.errors import WorldError
from cifar.serving.push import push_files, without_secrets

RESULTS = Path(__file__).parent.parent.parent / "results"
PUSHED = {
    "model.safetensors", "recipe.json", "summary.json", "metrics.csv", "evaluation.json", "curves.png", "confusion.png",
    "reliability.png", "mistakes.png", "README.md",
}  # fmt: skip
# The client streams files to its transport in a deprecated way.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[UploadHub]:
    """The server, running; the client uses it, has no login, and retries without waiting."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "login"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "logins"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _seconds: None)
    with UploadHub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        huggingface_hub.close_session()
        server.shutdown()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A recorded run with private files in its folder."""
    folder = tmp_path / "runs" / "small"
    shutil.copytree(RESULTS / "cnn", folder)
    for name in ("last.ckpt", "predictions.npz", "holiday.png", ".env", "README.md"):
        (folder / name).write_bytes(b"private")
    return folder


def push(*arguments: object) -> int:
    return run_app(app, ["push", *map(str, arguments)], program="cifar")


def sent(hub: UploadHub) -> list[str]:
    return [path for method, path in hub.requests if method in ("POST", "PUT")]


@pytest.mark.parametrize("in_parts", [False, True])
def test_a_pushed_run_predicts_like_the_original(
    hub: UploadHub, run: Path, in_parts: bool, sample: Dataset, tmp_path: Path, capsys: Captured
) -> None:
    hub.in_parts = in_parts
    if in_parts:  # files of more than one part
        for name in ("model.safetensors", "recipe.json"):
            shutil.copy(RESULTS / "quick" / name, run)
    assert push(run, "someone/small-net", "--token", WRITER) == 0
    output = capsys.readouterr()
    assert output.out.startswith(f"{hub.url}/someone/small-net: {len(PUSHED)} files, ")
    assert WRITER not in output.out + output.err
    repository = hub.repositories["someone/small-net"]
    assert repository.commits == ["The run small of cifar"]
    assert not repository.private
    assert set(repository.files) - {".gitattributes"} == PUSHED
    for name in PUSHED - {"README.md"}:
        assert repository.files[name] == (run / name).read_bytes()
    assert len(hub.verified) == 5  # weights and four pictures
    assert bool(hub.parts) == in_parts
    card = ModelCard(repository.files["README.md"].decode())
    assert card.data.model_name == "small-net"
    assert 'load_model("someone/small-net")' in card.text
    folder = tmp_path / "fetched"
    folder.mkdir()
    for name, content in repository.files.items():
        (folder / name).write_bytes(content)
    images = load(sample, "test").images[:20]
    original, pushed = (load_model(path, device="cpu").predict(images).probs for path in (run, folder))
    assert torch.equal(original, pushed)
    assert load_model(folder).trained_on == "CIFAR-10"


@pytest.mark.parametrize("private", [False, True])
def test_private_makes_the_repository_private(hub: UploadHub, run: Path, private: bool) -> None:
    flags = ["--private"] if private else []
    assert push(run, "someone/net", "--token", WRITER, *flags) == 0
    assert hub.repositories["someone/net"].private == private


def test_private_refuses_a_public_repository(hub: UploadHub, run: Path, capsys: Captured) -> None:
    assert push(run, "someone/net", "--token", WRITER) == 0
    hub.repositories["someone/net"].files["notes.txt"] = b"theirs"
    capsys.readouterr()
    before = len(sent(hub))
    assert push(run, "someone/net", "--token", WRITER, "--private") == 1
    assert "exists and is public, which --private forbids" in capsys.readouterr().err
    assert sent(hub)[before:] == ["/api/repos/create"]
    # Without the flag it is updated, and the replaced files are named.
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"seed": 7}))
    assert push(run, "someone/net", "--token", WRITER) == 0
    assert "already held README.md, confusion.png, " in capsys.readouterr().err
    repository = hub.repositories["someone/net"]
    assert json.loads(repository.files["summary.json"])["seed"] == 7
    assert "one run, seed 7" in repository.files["README.md"].decode()
    assert repository.files["notes.txt"] == b"theirs"
    assert len(repository.commits) == 2


def test_a_dry_run_sends_no_request(hub: UploadHub, run: Path, capsys: Captured) -> None:
    assert push(run, "someone/net", "--dry-run", "--private") == 0
    output = capsys.readouterr().out
    *lines, last = output.splitlines()
    sizes = {line.split()[0]: int(line.split()[1].replace(",", "")) for line in lines}
    assert set(sizes) == PUSHED
    assert all(sizes[name] == (run / name).stat().st_size for name in PUSHED - {"README.md"})
    assert last.startswith(f"would be pushed to the private repository someone/net: {len(PUSHED)} files, ")
    assert push(run, "someone/net", "--dry-run") == 0
    assert "would be pushed to the repository someone/net" in capsys.readouterr().out
    assert hub.requests == []


def test_the_token_comes_from_flag_environment_or_login(
    hub: UploadHub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    assert push(run, "someone/net") == 1
    assert "There is no token for the hub" in capsys.readouterr().err
    assert hub.requests == []
    (tmp_path / "login").write_text(WRITER)  # as `hf auth login` leaves it
    assert push(run, "someone/by-login") == 0
    monkeypatch.setenv("HF_TOKEN", READER)
    assert push(run, "someone/by-environment") == 1
    assert "does not let this token write to someone/by-environment (You don't have" in capsys.readouterr().err
    assert push(run, "someone/by-flag", "--token", WRITER) == 0
    assert set(hub.repositories) == {"someone/by-login", "someone/by-flag"}
    assert push(run, "someone/net", "--token", "hf_wrong") == 1
    error = capsys.readouterr().err
    assert "does not accept the token" in error
    assert "hf_wrong" not in error


def test_errors_of_the_hub_are_one_sentence_and_leave_no_commit(hub: UploadHub, run: Path, capsys: Captured) -> None:
    assert push(run, "other/net", "--token", WRITER) == 1
    assert "name a repository of your own" in capsys.readouterr().err
    for path, status, words in (
        ("/api/repos/create", 500, "responds with status 500: try again"),
        ("/api/validate-yaml", 400, "refuses someone/net with status 400 (as the test wants)"),
        ("/preupload/", 403, "does not let this token write to someone/net (as the test wants)"),
        ("/objects/batch", 404, "does not let this token write"),
        ("/store/", 503, "responds with status 503"),
        ("/verify", 400, "refuses someone/net with status 400"),
        ("/commit/", 413, "refuses someone/net with status 413 (as the test wants)"),
    ):
        hub.status_at = {path: status}
        assert push(run, "someone/net", "--token", WRITER) == 1, path
        output = capsys.readouterr()
        assert words in output.err, (path, output.err)
        assert output.err.count("\n") == 1, output.err
        assert output.out == ""
    for path in ("/api/repos/create", "/preupload/", "/store/", "/commit/"):
        hub.status_at, hub.gone_at = {}, path
        hub.store.clear()
        assert push(run, "someone/net", "--token", WRITER) == 1, path
        error = capsys.readouterr().err
        assert "The push broke off (" in error, error
        assert error.count("\n") == 1
    assert hub.repositories["someone/net"].commits == []
    hub.gone_at = ""
    assert push(run, "someone/net", "--token", WRITER) == 0
    assert hub.repositories["someone/net"].commits == ["The run small of cifar"]


def test_an_unreachable_hub_is_reported(
    hub: UploadHub, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    with UploadHub() as gone:  # closed before the first request
        url = gone.url
    monkeypatch.setattr(constants, "ENDPOINT", url)
    assert push(run, "someone/net", "--token", WRITER) == 1
    assert f"{url} cannot be reached (no connection: ConnectionError): connect and try again" in capsys.readouterr().err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert push(run, "someone/net", "--token", WRITER) == 1
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err
    assert hub.requests == []


def test_bad_input_is_one_sentence_and_sends_no_request(
    hub: UploadHub, run: Path, tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "empty").mkdir()
    bare = tmp_path / "bare"
    shutil.copytree(run, bare)
    (bare / "model.safetensors").unlink()
    for code, words, folder, name in (
        (2, "owner/name: the owner is missing", run, "net"),
        (2, "is not a repository of the hub", run, "a/b/c"),
        (2, "is not a repository of the hub", run, "someone/né t"),
        (2, "not a run folder", tmp_path / "empty", "someone/net"),
        (2, "name one of its folds", RESULTS / "cnn-crossval", "someone/net"),
        (1, "without its weights cannot be pushed", bare, "someone/net"),
    ):
        assert push(folder, name, "--token", WRITER) == code
        output = capsys.readouterr()
        assert words in output.err, output.err
        assert output.err.count("\n") == 1
    assert hub.requests == []


def test_a_fresh_process_follows_the_environment_variables_of_the_hub(
    hub: UploadHub, run: Path, tmp_path: Path
) -> None:
    """Nothing is patched: HF_ENDPOINT, HF_TOKEN and HF_HUB_DISABLE_XET as a person sets them."""
    environment = hub_environment(hub.url, tmp_path / "home") | {"HF_TOKEN": WRITER, "HF_HUB_DISABLE_XET": "1"}
    command = [
        sys.executable,
        "-W",
        "error",
        "-W",
        "ignore::DeprecationWarning",
        "-m",
        "cifar",
        "push",
        str(run),
        "someone/net",
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{hub.url}/someone/net: {len(PUSHED)} files, ")
    assert set(hub.repositories["someone/net"].files) - {".gitattributes"} == PUSHED


def test_a_token_and_passwords_in_urls_are_never_shown() -> None:
    sentence = "https://me:hunter2@hub.example/api responds with hf_secret: ask http://proxy:8080@b, me@c.example"
    shown = without_secrets(sentence, token="hf_secret")
    assert shown == "https://***@hub.example/api responds with ***: ask http://***@b, me@c.example"
    assert without_secrets("https://a.example/b@c", token="") == "https://a.example/b@c"


def test_an_error_that_repeats_the_token_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifar.serving.push.ask_hub", lambda _endpoint: "Invalid header value b'Bearer hf_secret\\n'")
    with pytest.raises(WorldError) as error:
        push_files({}, "a/b", private=False, token="hf_secret", message="")
    assert "hf_secret" not in str(error.value)


def test_a_space_holds_all_that_its_demo_needs(hub: UploadHub, run: Path, tmp_path: Path) -> None:
    """What was pushed is written into an empty folder and started there, as the hub does."""
    assert push(run, "someone/demo", "--token", WRITER, "--space") == 0
    repository = hub.repositories["someone/demo"]
    space = tmp_path / "space"
    for name, content in repository.files.items():
        (space / name).parent.mkdir(parents=True, exist_ok=True)
        (space / name).write_bytes(content)
    assert not {"run/last.ckpt", "run/.env", "last.ckpt"} & repository.files.keys()
    header = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    assert (header["sdk"], header["app_file"]) == ("gradio", "app.py")
    needed = (space / "requirements.txt").read_text()
    assert "torch>=" in needed
    assert "gradio>=" in needed
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = (space / "app.py").read_text().replace("7860", str(port))
    (space / "app.py").write_text(program)
    environment = os.environ | {"SPACE_HOST": "someone-demo.example", "PYTHONPATH": "", "PYTHONSAFEPATH": ""}
    code = "import cifar; print(cifar.__file__)"
    found = subprocess.run([sys.executable, "-c", code], cwd=space, env=environment, capture_output=True, text=True)
    assert found.stdout.strip() == str(space / "cifar" / "__init__.py")
    with subprocess.Popen([sys.executable, "app.py"], cwd=space, env=environment, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout
            assert server.stdout.readline().startswith(b"http://")
            page = requests.get(f"http://127.0.0.1:{port}/", headers={"Host": "someone-demo.example"}, timeout=30)
            assert page.status_code == 200
            assert "gradio" in page.text
            other = requests.get(f"http://127.0.0.1:{port}/", headers={"Host": "another.example"}, timeout=30)
            assert other.status_code == 421
        finally:
            server.terminate()


def test_a_network_of_ones_own_is_no_space(hub: UploadHub, run: Path, capsys: Captured) -> None:
    recipe = json.loads((run / "recipe.json").read_text()) | {"model": "mine:net"}
    (run / "recipe.json").write_text(json.dumps(recipe))
    assert push(run, "someone/demo", "--token", WRITER, "--space") == 2
    assert "a Space cannot show its demo" in capsys.readouterr().err
    assert hub.requests == []
