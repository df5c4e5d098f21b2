"""Hostile requests to `cifar demo`: each function sends one, and raises AssertionError where it is not refused.

They get a client whose base address is the demo's, and an image that is fine.
"""

import asyncio
import struct
import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress

import httpx

Attack = Callable[[httpx.AsyncClient, bytes], Awaitable[None]]

MALFORMED = (
    b"",
    b"--x",
    b"--x\r\n\r\n\r\n--x--",
    b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--",
    bytes(100),
)
NO_JSON = (b"{", b"[]", b"null", b'{"data": 7}', b'{"data": ' + b"[" * 9000, b"\xff", b'{"data": [1, 2, 3]}')


async def another_host(client: httpx.AsyncClient, _image: bytes) -> None:
    for host in ("evil.example", f"evil.example:{client.base_url.port}", "127.0.0.1:1"):
        answer = await client.get("config", headers={"Host": host})
        assert answer.status_code == 421, answer.status_code


async def another_origin(client: httpx.AsyncClient, image: bytes) -> None:
    for origin in ("http://evil.example", "null", "http://localhost:3000"):
        with suppress(httpx.TransportError):  # closed before all was sent
            files = {"files": ("a.png", image)}
            answer = await client.post("gradio_api/upload", files=files, headers={"Origin": origin})
            assert answer.status_code == 403, answer.status_code


async def cut_off(client: httpx.AsyncClient, image: bytes) -> None:
    url = client.base_url
    _, writer = await asyncio.open_connection(url.host, url.port)
    head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: {url.host}:{url.port}\r\nContent-Length: 5000000\r\n"
    part = 'Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\nContent-Disposition: form-data; name="files"; '
    writer.write(f'{head}{part}filename="a.png"\r\n\r\n'.encode() + image)
    await writer.drain()
    writer.close()


async def slow(client: httpx.AsyncClient, _image: bytes) -> None:
    url = client.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: ")
    assert await asyncio.wait_for(reader.read(), 30) == b""
    writer.close()


async def too_large(client: httpx.AsyncClient, _image: bytes) -> None:
    with suppress(httpx.TransportError):
        answer = await client.post("gradio_api/upload", files={"files": ("a.png", bytes(11 * 2**20))})
        assert answer.status_code == 413, answer.status_code


async def large_headers(client: httpx.AsyncClient, _image: bytes) -> None:
    with suppress(httpx.TransportError):
        answer = await client.get("config", headers={"X-Large": "a" * 200_000})
        assert answer.status_code in (400, 431), answer.status_code


async def malformed_multipart(client: httpx.AsyncClient, _image: bytes) -> None:
    for body in MALFORMED:
        for kind in ("multipart/form-data; boundary=x", "multipart/form-data", "text/plain"):
            answer = await client.post("gradio_api/upload", content=body, headers={"Content-Type": kind})
            assert answer.status_code >= 400 or answer.json() == [], answer.text


async def malformed_json(client: httpx.AsyncClient, _image: bytes) -> None:
    for body in NO_JSON:
        answer = await client.post(
            "gradio_api/call/predict", content=body, headers={"Content-Type": "application/json"}
        )
        if answer.status_code == 200:  # the queue accepts it, and the answer is an error
            stream = await client.get(f"gradio_api/call/predict/{answer.json()['event_id']}")
            assert "event: error" in stream.text, stream.text


async def other_paths(client: httpx.AsyncClient, _image: bytes) -> None:
    for path in ("file=/etc/passwd", "file=..%2f..%2fetc/passwd", "proxy=http://127.0.0.1:1/", "run/predict"):
        answer = await client.get(f"gradio_api/{path}")
        assert answer.status_code in (403, 404), answer.status_code
    await refused(client, "/etc/passwd")


async def bomb(client: httpx.AsyncClient, _image: bytes) -> None:
    for width, height in ((1, 89_000_000), (20_000, 20_000)):
        await refused(client, await upload(client, png(width, height)))


async def no_image(client: httpx.AsyncClient, image: bytes) -> None:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n"
    for data in (b"<html>", b"<svg xmlns='http://www.w3.org/2000/svg'/>", eps, image[: len(image) // 2]):
        await refused(client, await upload(client, data))


async def large_image(client: httpx.AsyncClient, _image: bytes) -> None:
    """Not refused, but the largest of its kind: its memory has to be given back."""
    rows = b"".join(b"\0" + bytes(3 * 6000) for _ in range(100))
    data = zlib.compress(rows * 40, 1)
    path = await upload(client, png(6000, 4000, data))
    call = await client.post("gradio_api/call/predict", json={"data": [{"path": path}]})
    stream = await client.get(f"gradio_api/call/predict/{call.raise_for_status().json()['event_id']}")
    assert "event: complete" in stream.text, stream.text


async def upload(client: httpx.AsyncClient, data: bytes) -> str:
    """The path of an uploaded file."""
    answer = await client.post("gradio_api/upload", files={"files": ("a.png", data)})
    path: str = answer.raise_for_status().json()[0]
    return path


async def refused(client: httpx.AsyncClient, path: str) -> None:
    """Ask for the classes of a file, and raise AssertionError if they come."""
    call = await client.post("gradio_api/call/predict", json={"data": [{"path": path}]})
    stream = await client.get(f"gradio_api/call/predict/{call.raise_for_status().json()['event_id']}")
    assert "event: error" in stream.text, stream.text


def png(width: int, height: int, data: bytes = zlib.compress(b"\0")) -> bytes:
    """A PNG that claims a size; without data of its own it has hardly any."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


ATTACKS: tuple[Attack, ...] = (
    another_host, another_origin, cut_off, slow, too_large, large_headers, malformed_multipart, malformed_json,
    other_paths, bomb, no_image, large_image,
)  # fmt: skip
