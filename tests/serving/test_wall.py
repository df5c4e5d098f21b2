"""The wall in front of the demo's server, tested by requests."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cifar.serving.wall import FILE, MAX_HEADERS, MAX_REQUEST, UPLOAD, Message, Receive, Send, own_names, wall

MAX_BYTES = 1000


NAMES = own_names("127.0.0.1", 7860, others=["Demo.example.org"])


def ask(
    path: str,
    *,
    folder: Path,
    method: str = "GET",
    length: str | None = None,
    more: Sequence[tuple[str, str]] = (("host", "127.0.0.1:7860"),),
) -> tuple[int, dict[bytes, bytes]]:
    """Status and headers of the response; 299 is that of the application behind the wall."""
    sent: list[Message] = []

    async def app(_scope: Message, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body"})

    async def receive() -> Message:
        raise AssertionError("the wall reads no body")

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [] if length is None else [(b"content-length", length.encode())]
    headers += [(key.encode(), value.encode()) for key, value in more]
    scope: dict[str, Any] = {"type": "http", "method": method, "path": path, "headers": headers}
    scope["server"] = ("10.0.0.7", 7860)
    asyncio.run(wall(app, names=NAMES, folders=[folder], max_bytes=MAX_BYTES)(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"])


@pytest.mark.parametrize(
    "path",
    ["/", "/config", "/config/", "/theme.css", "/assets/index.js", "/static/fonts/a.woff2", "/gradio_api/info", UPLOAD,
     "/gradio_api/call/predict/0123", "/gradio_api/queue/data", "/gradio_api/heartbeat/abc"],
)  # fmt: skip
def test_requests_that_the_page_needs_are_passed_on(path: str, tmp_path: Path) -> None:
    status, headers = ask(path, folder=tmp_path)
    assert status == 299
    assert b"default-src 'self'" in headers[b"content-security-policy"]


@pytest.mark.parametrize(
    "path",
    ["/monitoring", "/monitoring/summary", "/gradio_api/proxy=http://127.0.0.1/", "/gradio_api/file/etc/passwd",
     "/gradio_api/runs", "/gradio_api/run/predict", "/gradio_api/process_recording", "/gradio_api/component_server",
     "/gradio_api/deep_link", "/gradio_api/stream/a", "/gradio_api/vibe-code", "/gradio_api/dev/reload", "/docs",
     "/openapi.json", "/login", "/gradio_api/mcp", ""],
)  # fmt: skip
def test_other_routes_of_gradio_do_not_exist(path: str, tmp_path: Path) -> None:
    status, headers = ask(path, folder=tmp_path)
    assert status == (299 if path == "" else 404)  # an empty path is the page
    assert b"content-security-policy" in headers


def test_only_files_in_the_folders_are_served(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "inside-not"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "a.png").touch()
    (inside / "link.png").symlink_to(outside / "a.png")
    assert ask(f"{FILE}{inside}/a.png", folder=inside)[0] == 299
    for path in (
        f"{outside}/a.png", f"{inside}/../inside-not/a.png", f"{inside}/link.png", "/etc/passwd", "etc/passwd", "",
        "http://127.0.0.1:9/a.png", "file:///etc/passwd", f"{inside}/\0", f"//{outside}/a.png",
    ):  # fmt: skip
        assert ask(FILE + path, folder=inside)[0] == 404, path
    assert ask(f"{FILE}{inside}/{'a' * 5000}", folder=inside)[0] in (299, 404)  # behind it there is no such file


@pytest.mark.parametrize(
    ("path", "length", "status"),
    [("/gradio_api/queue/join", str(MAX_REQUEST), 299), ("/gradio_api/queue/join", str(MAX_REQUEST + 1), 413),
     (UPLOAD, str(MAX_REQUEST + MAX_BYTES), 299), (UPLOAD, str(MAX_REQUEST + MAX_BYTES + 1), 413),
     (UPLOAD, None, 411), (UPLOAD, "-1", 411), (UPLOAD, "many", 411)],
)  # fmt: skip
def test_a_request_body_needs_a_length_within_the_limit(
    path: str, length: str | None, status: int, tmp_path: Path
) -> None:
    assert ask(path, folder=tmp_path, method="POST", length=length)[0] == status


def test_a_body_in_chunks_is_refused_whatever_length_it_claims(tmp_path: Path) -> None:
    more = [("host", "127.0.0.1:7860"), ("transfer-encoding", "chunked")]
    assert ask(UPLOAD, folder=tmp_path, method="POST", length="10", more=more)[0] == 411


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "localhost:7860"}, 299), ({"host": "[::1]:7860"}, 299), ({"host": "LocalHost:7860"}, 299),
        ({"host": "demo.example.org"}, 299), ({"host": "10.0.0.7:7860"}, 299),  # at which the connection arrived
        ({"host": "evil.example:7860"}, 421), ({"host": "localhost"}, 421), ({"host": "localhost:7861"}, 421),
        ({"host": "localhost.:7860"}, 421), ({"host": "127.0.0.1:7860.evil.example"}, 421), ({"host": ""}, 421),
        ({"host": "127.0.0.1:7860@evil.example"}, 421), ({}, 421), ({"host": "10.0.0.8:7860"}, 421),
        ({"host": "localhost:7860", "origin": "http://localhost:7860"}, 299),
        ({"host": "demo.example.org", "origin": "https://demo.example.org"}, 299),
        ({"host": "localhost:7860", "origin": "http://127.0.0.1:7860"}, 403),
        ({"host": "localhost:7860", "origin": "http://localhost:3000"}, 403),
        ({"host": "localhost:7860", "origin": "http://evil.example"}, 403),
        ({"host": "localhost:7860", "origin": "null"}, 403), ({"host": "localhost:7860", "origin": ""}, 403),
    ],
)  # fmt: skip
def test_only_its_own_names_and_its_own_page_are_answered(headers: dict[str, str], status: int, tmp_path: Path) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        assert ask("/config", folder=tmp_path, method=method, length="2", more=list(headers.items()))[0] == status


def test_large_headers_are_refused(tmp_path: Path) -> None:
    for size, status in ((MAX_HEADERS - 100, 299), (MAX_HEADERS, 431)):
        assert ask("/", folder=tmp_path, more=[("host", "localhost:7860"), ("cookie", "a" * size)])[0] == status


def test_two_names_in_a_request_are_refused(tmp_path: Path) -> None:
    twice = [("host", "localhost:7860"), ("host", "evil.example")]
    assert ask("/", folder=tmp_path, more=twice)[0] == 421


def test_a_failure_behind_the_wall_is_a_sentence(tmp_path: Path) -> None:
    sent: list[Message] = []

    async def app(_scope: Message, _receive: Receive, _send: Send) -> None:
        raise KeyError("Content-Type")

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"localhost:7860")]}
    asyncio.run(wall(app, names=NAMES, folders=[tmp_path], max_bytes=MAX_BYTES)(scope, receive, send))
    assert sent[0]["status"] == 500
    assert b"Content-Type" not in sent[1]["body"]


def test_websockets_are_closed(tmp_path: Path) -> None:
    sent: list[Message] = []

    async def app(_scope: Message, _receive: Receive, _send: Send) -> None:
        raise AssertionError("passed on")

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/", "headers": []}
    asyncio.run(wall(app, names=NAMES, folders=[tmp_path], max_bytes=MAX_BYTES)(scope, receive, send))
    assert sent == [{"type": "websocket.close"}]
