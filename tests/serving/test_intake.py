"""What reaches Gradio of what is sent to the demo: whole requests, in time, within the limits."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cifar.serving import intake as module
from cifar.serving.intake import BLOCK, guard_connections, intake, stored_bytes
from cifar.serving.limits import COUNT_SECONDS
from cifar.serving.wall import UPLOAD, Message, Receive, Send


def ask(messages: list[Message], folder: Path, *, length: int, method: str = "POST") -> tuple[int, list[bytes]]:
    """The status of the response, 0 where there is none, and the bodies that the application got."""
    sent: list[Message] = []
    bodies: list[bytes] = []

    async def app(_scope: Message, receive: Receive, send: Send) -> None:
        message = await receive()
        assert not message["more_body"]
        bodies.append(message["body"])
        await send({"type": "http.response.start", "status": 299, "headers": []})

    async def receive() -> Message:
        if not messages:
            await asyncio.sleep(60)
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-length", str(length).encode())]
    scope: dict[str, Any] = {"type": "http", "method": method, "path": UPLOAD, "headers": headers}
    asyncio.run(intake(app, uploads=folder)(scope, receive, send))
    return sent[0]["status"] if sent else 0, bodies


def part(body: bytes, *, more: bool) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_is_passed_on_whole(tmp_path: Path) -> None:
    parts = [part(b"ab", more=True), part(b"", more=True), part(b"c", more=False)]
    assert ask(parts, tmp_path, length=3) == (299, [b"abc"])


def test_a_body_that_is_cut_off_is_not_passed_on(tmp_path: Path) -> None:
    assert ask([part(b"ab", more=True), {"type": "http.disconnect"}], tmp_path, length=3) == (0, [])


def test_a_body_longer_than_it_says_is_refused(tmp_path: Path) -> None:
    assert ask([part(b"ab", more=True), part(b"cd", more=True)], tmp_path, length=3) == (413, [])


def test_a_slow_body_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BODY_SECONDS", 0.05)
    assert ask([part(b"ab", more=True)], tmp_path, length=3) == (408, [])


def test_a_body_for_which_there_is_no_room_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_IN_FLIGHT", 2)
    assert ask([], tmp_path, length=3)[0] == 503
    monkeypatch.setattr(module, "MAX_IN_FLIGHT", 10)
    (tmp_path / "a").write_bytes(bytes(100))
    monkeypatch.setattr(module, "MAX_STORED", BLOCK + 103)
    assert ask([part(b"abc", more=False)], tmp_path, length=3)[0] == 299
    assert ask([], tmp_path, length=4)[0] == 507


def test_uploads_are_counted_now_and_then_and_what_came_since_is_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[Path] = []
    monkeypatch.setattr(module, "stored_bytes", lambda folder: counts.append(folder) or 0)
    monkeypatch.setattr(module, "MAX_STORED", 4 * BLOCK + 6)
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    statuses: list[int] = []

    async def app(_scope: Message, _receive: Receive, _send: Send) -> None:
        statuses.append(200)

    async def receive() -> Message:
        return part(b"abc", more=False)

    async def send(message: Message) -> None:
        if "status" in message:
            statuses.append(message["status"])

    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": UPLOAD, "headers": [(b"content-length", b"3")]}
    answer = intake(app, uploads=tmp_path)

    async def upload_four() -> None:
        for seconds in (0, 1, 2, COUNT_SECONDS + 1):
            clock[0] = seconds
            await answer(scope, receive, send)

    asyncio.run(upload_four())
    assert statuses == [200, 200, 507, 200]
    assert counts == [tmp_path] * 2


def test_old_uploads_and_their_folders_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "old.png").write_bytes(bytes(10))
    assert stored_bytes(tmp_path) == 3 * BLOCK + 10
    monkeypatch.setattr(module, "KEPT_SECONDS", -60)
    stored_bytes(tmp_path)
    assert not list(tmp_path.iterdir())
    assert stored_bytes(tmp_path / "absent") == 0


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """Of a server of uvicorn's, as Gradio starts it, with the guard."""
    uvicorn = pytest.importorskip("uvicorn")
    monkeypatch.setattr(module, "HEADER_SECONDS", 0.3)
    monkeypatch.setattr(module, "KEEP_ALIVE_SECONDS", 0.3)

    async def app(_scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    config = uvicorn.Config(app, port=0, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    guard_connections(config)
    yield server.servers[0].sockets[0].getsockname()
    server.should_exit = True
    thread.join()


@pytest.mark.parametrize("before", [b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"])
@pytest.mark.parametrize("data", [b"", b"GET", b"GET / HTTP/1.1\r\nHost: a\r\n"])
def test_a_request_that_does_not_begin_in_time_is_dropped(address: tuple[str, int], before: bytes, data: bytes) -> None:
    with socket.create_connection(address, timeout=8) as connection:
        if before:
            connection.sendall(before)
            answer = b""
            while not answer.endswith(b"ok"):
                answer += connection.recv(1000)
        connection.sendall(data)
        start = time.monotonic()
        assert connection.recv(1000) == b""
        assert time.monotonic() - start < 4


def test_headers_that_come_a_letter_at_a_time_are_dropped(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=8) as connection:
        start = time.monotonic()
        with suppress(OSError):
            while time.monotonic() - start < 6:
                connection.sendall(b"G")
                time.sleep(0.02)
        assert time.monotonic() - start < 4
