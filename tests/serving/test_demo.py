"""`cifar demo` for people and programs: the real server, in a process of its own, and a real browser."""

import html
import http.server
import io
import json
import shutil
import socket
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from browser import needs_browser, open_page
from demo_server import ROOT, Server, running_demo
from PIL import Image
from untrained_runs import make_untrained

from cifar import load_model
from cifar.data.cifar10 import Dataset, load
from cifar.data.split import CLASSES
from cifar.serving.demo import PORTS, forget, free_port
from cifar.serving.limits import MAX_BYTES

httpx = pytest.importorskip("httpx")
pytest.importorskip("gradio", reason='the demo needs gradio: pip install "cifar[demo]"')

RECORDED = ROOT / "results" / "cnn"


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_untrained(tmp_path_factory.mktemp("runs") / "untrained", "cnn", "views=mirror")


@pytest.fixture(scope="module")
def server(untrained: Path) -> Iterator[Server]:
    """A demo of two runs; that Ctrl-C ends it cleanly is checked at the end."""
    with running_demo(RECORDED, untrained, "--device", "cpu") as server:
        yield server


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image that is neither square nor of 32 pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.fromarray(pixels).resize((450, 300), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with httpx.Client(base_url=server.address, timeout=120, trust_env=False) as client:
        yield client


def upload(client: Any, data: bytes, name: str = "image.png") -> str:
    answer = client.post("gradio_api/upload", files={"files": (name, data)})
    assert answer.status_code == 200, answer.text
    path: str = answer.json()[0]
    return path


def ask(client: Any, value: object) -> tuple[str, Any]:
    """The kind of the event in the response, and its data."""
    call = client.post("gradio_api/call/predict", json={"data": [value]})
    assert call.status_code == 200, call.text
    lines = client.get(f"gradio_api/call/predict/{call.json()['event_id']}").text.strip().splitlines()
    return lines[-2].removeprefix("event: "), json.loads(lines[-1].removeprefix("data: "))


def assert_answers(data: list[Any], expected: list[dict[str, float]]) -> None:
    assert len(data) == len(expected)
    for answer, probs in zip(data, expected, strict=True):
        given = {row["label"]: row["confidence"] for row in answer["confidences"]}
        assert given == pytest.approx(probs, abs=1e-6)
        assert answer["label"] == max(probs, key=lambda name: probs[name])


def probs_of(run: Path, path: Path) -> dict[str, float]:
    predictions = load_model(run, device="cpu").predict(path)
    return dict(zip(CLASSES, predictions.probs[0].tolist(), strict=True))


# For programs


def test_the_endpoint_returns_the_predictions_of_both_runs(client: Any, untrained: Path, photo: Path) -> None:
    event, data = ask(client, {"path": upload(client, photo.read_bytes())})
    assert event == "complete"
    assert_answers(data, [probs_of(run, photo) for run in (RECORDED, untrained)])


@pytest.mark.skipif(shutil.which("curl") is None or shutil.which("bash") is None, reason="there is no curl")
def test_the_shell_commands_on_the_page_and_in_the_readme_work(
    server: Server, untrained: Path, photo: Path, tmp_path: Path
) -> None:
    from cifar.serving.page import curl_lines

    readme = (ROOT / "docs" / "use.md").read_text()
    assert curl_lines("http://127.0.0.1:7860/") in readme
    shutil.copy(photo, tmp_path / "cat.png")
    done = subprocess.run(
        ["bash", "-c", curl_lines(server.address)], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        check=True,
    )  # fmt: skip
    data = json.loads(done.stdout.partition("data: ")[2])
    assert_answers(data, [probs_of(run, photo) for run in (RECORDED, untrained)])


def test_only_one_endpoint_is_public(client: Any) -> None:
    info = client.get("gradio_api/info").json()
    assert list(info["named_endpoints"]) == ["/predict"]
    assert info["unnamed_endpoints"] == {}


def test_a_single_run_under_a_small_load_loses_no_request() -> None:
    script = [sys.executable, ROOT / "benchmarks" / "demo_load.py", RECORDED]
    done = subprocess.run(
        [*script, "--clients", "8", "--requests", "40", "--warm", "20"], capture_output=True, text=True, timeout=400
    )
    assert done.stdout, done.stderr
    result = json.loads(done.stdout)
    assert (result["lost"], result["wrong"], result["first_failures"]) == (0, 0, [])
    assert result["milliseconds"]["p50"] <= result["milliseconds"]["p95"] <= result["milliseconds"]["p99"]
    assert result["memory"]["first_bytes"] > 50_000_000


# What is refused


def png(width: int, height: int) -> bytes:
    """A PNG that claims a size, with hardly any data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n(/etc/passwd) (r) file\n%%EOF\n"


@pytest.mark.parametrize(
    "name, data, words",
    [
        ("notes.txt", b"hello", "is not an image of a known format"),
        ("fake.png", b"<html>", "is not an image of a known format"),
        ("nothing.png", b"", "is not an image of a known format"),
        ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not an image of a known format"),
        ("program.eps", EPS, "is not an image of a known format"),
        ("column.png", png(1, 89_000_000), "The image is too large"),
        ("bomb.png", png(20_000, 20_000), "The image is too large"),
        ("torn.png", png(32, 32), "is damaged or truncated"),
    ],
    ids=["text", "page", "nothing", "svg", "eps", "column", "bomb", "torn"],
)
def test_a_file_that_is_not_an_image_is_refused_in_words(
    server: Server, client: Any, name: str, data: bytes, words: str
) -> None:
    event, answer = ask(client, {"path": upload(client, data, name)})
    assert event == "error"
    assert words in html.unescape(answer["error"])
    assert str(server.temporary) not in answer["error"]
    assert not server.events("subprocess.Popen", "os.system", "os.posix_spawn")


def test_requests_over_the_limits_are_refused(client: Any) -> None:
    for size in (MAX_BYTES + 1, MAX_BYTES + 200_000):  # Gradio's own limit, and the wall's
        with io.BytesIO(bytes(size)) as file:
            answer = client.post("gradio_api/upload", files={"files": ("a.png", file)})
        assert answer.status_code == 413
    assert client.post("gradio_api/call/predict", json={"data": ["a" * 100_000]}).status_code == 413
    assert client.post("gradio_api/call/predict", content=iter([b"{}"])).status_code == 411


@pytest.fixture
def bystander() -> Iterator[tuple[str, list[str]]]:
    """Another server on this machine: an address there, and the paths that were requested."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/a.png", asked
        server.shutdown()


def test_other_files_and_urls_are_never_read(
    server: Server, client: Any, bystander: tuple[str, list[str]], photo: Path, tmp_path: Path
) -> None:
    address, asked = bystander
    secret = tmp_path / "secret.png"
    shutil.copy(photo, secret)
    uploaded = upload(client, photo.read_bytes())
    names = ["/etc/passwd", str(secret), f"file://{secret}", address, f"{uploaded}/../../../../../{secret}"]
    names += [str(Path(uploaded).parent), "//127.0.0.1/share/a.png", ""]
    values: list[Any] = ["/etc/passwd", address, {}, 7, ["/etc/passwd"]]
    for name in names:
        for meta in ({}, {"meta": {"_type": "gradio.FileData"}}):
            for stream in ({}, {"is_stream": True}):
                values += [{"path": name} | meta | stream, {"path": None, "url": name} | meta | stream]
                values += [{"path": "a.png", "url": name, "orig_name": "a.svg"} | meta | stream]
    for value in values:
        event, data = ask(client, value)
        assert event == "error", value
        assert "root:" not in json.dumps(data)
    for name in names[:-1]:
        for door in ("file=", "proxy=", "file/", "stream/"):
            answer = client.get(f"gradio_api/{door}{name}")
            assert answer.status_code in (403, 404), (door, name)
    assert asked == []
    opened = server.events("open")
    assert opened  # the log works
    assert not [line for line in opened if "/etc/passwd" in line or secret.name in line]


def test_pages_of_other_origins_are_refused(client: Any) -> None:
    origin = {"Origin": "https://evil.example"}
    asked = client.options("gradio_api/queue/join", headers=origin | {"Access-Control-Request-Method": "POST"})
    posted = client.post("gradio_api/call/predict", json={"data": [None]}, headers=origin)
    for answer in (asked, posted):
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers


def test_other_names_of_the_server_are_refused(server: Server, client: Any) -> None:
    port = server.address.rstrip("/").rpartition(":")[2]
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", "127.0.0.1:1", f"127.0.0.1.nip.io:{port}", ""):
        for path in ("", "config", "gradio_api/info"):
            assert client.get(path, headers={"Host": host}).status_code in (400, 421), host
    for host in (f"127.0.0.1:{port}", f"LOCALHOST:{port}", f"[::1]:{port}"):
        assert client.get("config", headers={"Host": host}).status_code == 200, host


def test_an_upload_that_is_cut_off_leaves_nothing(server: Server, client: Any) -> None:
    before = sorted(server.temporary.rglob("*"))
    host = server.address.removeprefix("http://").rstrip("/")
    head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: {host}\r\nContent-Length: 900000\r\n"
    kind = "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    part = '--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    with socket.create_connection(tuple(host.split(":"))) as connection:
        connection.sendall(f"{head}{kind}{part}".encode() + bytes(300_000))
    assert client.get("gradio_api/info").status_code == 200  # after the end of that connection
    assert sorted(server.temporary.rglob("*")) == before


def test_names_in_uploads_lead_nowhere(server: Server, client: Any) -> None:
    for name in (
        "../../../../tmp/evil.png",
        "..",
        "/etc/evil.png",
        "a\\..\\b.png",
        "a" * 300,
        "\0.png",
        "<script>.png",
    ):
        answer = client.post("gradio_api/upload", files={"files": (name, b"data")})
        if answer.status_code == 200:
            assert Path(answer.json()[0]).resolve().is_relative_to(server.temporary)
    for body in (b"", b"--x", b"--x\r\n\r\n\r\n--x--", b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--"):
        for kind in ("multipart/form-data; boundary=x", "multipart/form-data", "text/plain", ""):
            answer = client.post("gradio_api/upload", content=body, headers={"Content-Type": kind})
            assert answer.status_code in (200, 400, 422, 500)
    for content in (
        b"{",
        b"[]",
        b"null",
        b'{"data": 7}',
        b'{"data": ' + b"[" * 9_000,
        b'{"data": [NaN], "fn_index": "x"}',
    ):
        assert client.post("gradio_api/call/predict", content=content).status_code in (200, 400, 422, 500)


def test_the_server_connects_only_to_itself(server: Server, client: Any) -> None:
    assert client.get("").status_code == 200
    port = server.address.rstrip("/").rpartition(":")[2]
    for line in server.events("socket.connect", "socket.getaddrinfo"):
        assert "127.0.0.1" in line, line
    assert all(f"('127.0.0.1', {port})" in line for line in server.events("socket.connect"))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux answers to all of 127.0.0.0/8 unasked")
def test_a_port_taken_in_the_meantime_is_skipped() -> None:
    # Free on 127.0.0.2, where we listen, but Gradio checks 127.0.0.1: as if it had been taken in between.
    with socket.socket() as other:
        taken = free_port("127.0.0.1", PORTS)
        other.bind(("127.0.0.1", taken))
        other.listen()
        with running_demo(RECORDED, "--device", "cpu", "--host", "127.0.0.2") as server:
            assert server.address.startswith("http://127.0.0.2:")
            assert not server.address.endswith(f":{taken}/")
            assert httpx.get(server.address, trust_env=False).status_code == 200


# For people


@needs_browser
def test_a_person_sees_predictions_explanations_and_cards(
    server: Server, untrained: Path, photo: Path, sample: Dataset, tmp_path: Path
) -> None:
    with open_page() as page:
        fetched: list[str] = []
        missed: list[str] = []
        page.on("request", lambda request: fetched.append(request.url))
        page.on("response", lambda response: response.status >= 400 and missed.append(response.url))
        page.set_default_timeout(90_000)
        page.goto(server.address)
        page.set_input_files("#image input[type=file]", photo)
        for number, run in enumerate((RECORDED, untrained)):
            probs = probs_of(run, photo)
            ranked = sorted(probs, key=lambda name: probs[name], reverse=True)
            page.wait_for_selector(f"#top-{number} h2:text-is('{ranked[0]}')")
            top = page.inner_text(f"#top-{number}").split("\n")
            assert [line for line in top if line in CLASSES][-3:] == ranked[:3]
            page.click(f"#all-{number} button")
            page.wait_for_selector(f"#bars-{number} h2:text-is('{ranked[0]}')")
            bars = page.inner_text(f"#bars-{number}").split("\n")
            assert [line for line in bars if line in CLASSES][-10:] == ranked
            percentages = [int(line[:-1]) for line in bars if line.endswith("%")]
            assert percentages == pytest.approx([100 * probs[name] for name in ranked], abs=0.51)
            page.wait_for_selector(f"#picture-{number} img")
            assert f"evidence for {ranked[0]}" in page.inner_text(f"#words-{number}")
        page.click("text=Model card: cnn")
        accuracy = json.loads((RECORDED / "summary.json").read_text())["test_accuracy"]
        page.wait_for_selector(f"strong:has-text('Test accuracy {accuracy:.2%}')")
        page.click("text=From a program")
        page.wait_for_selector(f"code:has-text('{server.address}gradio_api/upload')")

        fake = tmp_path / "fake.png"
        fake.write_text("hello")
        page.click("#image button[aria-label='Remove Image']")
        page.wait_for_selector("#top-0 h2", state="detached")
        page.set_input_files("#image input[type=file]", photo)
        page.wait_for_selector("#top-0 h2")
        page.click("#image button[aria-label='Remove Image']")
        page.set_input_files("#image input[type=file]", fake)
        page.wait_for_selector("text=is not an image of a known format")
        page.wait_for_selector("#top-0 h2", state="detached")  # the former answer has gone

        page.click(".gallery-item:nth-child(4)")
        train = load(sample, "train")
        cat = train.images[train.labels.tolist().index(CLASSES.index("cat"))]
        name = load_model(RECORDED, device="cpu").predict(cat).names[0]
        page.wait_for_selector(f"#top-0 h2:text-is('{name}')")
        page.wait_for_selector(f"#words-0:has-text('evidence for {name}')")
        assert fetched
        outside = [url for url in fetched if not url.startswith((server.address, "data:", "blob:"))]
        assert outside == []
        assert missed == []  # by the wall


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_the_screen(server: Server, width: int) -> None:
    with open_page(width=width, dark=True) as page:
        page.set_default_timeout(90_000)
        page.goto(server.address)
        page.wait_for_selector("#top-1")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert sum(map(int, background.removeprefix("rgb(").rstrip(")").split(","))) < 150


def test_what_gradio_would_keep_for_ever_is_forgotten() -> None:
    queue = SimpleNamespace(
        pending_messages_per_session={"waiting": 1, "answered": 2},
        pending_event_ids_session={"waiting": {"event"}, "answered": set(), "gone": {"event"}},
    )
    page = SimpleNamespace(temp_file_sets=[{"a.png"}, {"b.png"}], _queue=queue)
    forget(page)
    assert queue.pending_event_ids_session == {"waiting": {"event"}}
    assert queue.pending_messages_per_session == {"waiting": 1}
    assert page.temp_file_sets == [set(), set()]
