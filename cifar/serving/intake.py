"""What is sent to the demo's server: in time, whole before Gradio sees it, and never more than there is room for."""

import asyncio
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cifar.machine import return_memory
from cifar.serving.limits import (
    BODY_SECONDS,
    COUNT_SECONDS,
    HEADER_SECONDS,
    KEEP_ALIVE_SECONDS,
    KEPT_SECONDS,
    MAX_CONNECTIONS,
    MAX_IN_FLIGHT,
    MAX_STORED,
)
from cifar.serving.wall import UPLOAD, App, Message, Receive, Send, send_sentence

BLOCK = 4096  # bytes on the disk, of a folder and of a file beyond its own


def intake(app: App, *, uploads: Path, forget: Callable[[], object] = lambda: None) -> App:
    """An ASGI application that reads the body of a request whole before it passes it on.

    Gradio would leave the file of an upload that is cut off, and print a traceback.

    Args:
        app: behind `wall`, which has checked Content-Length.
        uploads: the folder of uploaded files.
        forget: called in the server's own thread, every COUNT_SECONDS in which something is uploaded.
    """
    in_flight = stored = 0
    counted_at = -math.inf

    async def answer(scope: Message, receive: Receive, send: Send) -> None:
        nonlocal in_flight, stored, counted_at
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await app(scope, receive, send)
            return
        length = int(dict(scope["headers"])[b"content-length"])
        if in_flight + length > MAX_IN_FLIGHT:
            await send_sentence(send, 503, "The demo is receiving too much at once: try again.")
            return
        if scope["path"].startswith(UPLOAD):
            if time.monotonic() - counted_at > COUNT_SECONDS:
                counted_at = time.monotonic()
                forget()
                stored = await asyncio.to_thread(stored_bytes, uploads)
            if in_flight + length + stored > MAX_STORED:
                sentence = f"There is no room: uploads are deleted after {KEPT_SECONDS // 60} minutes."
                await send_sentence(send, 507, sentence)
                return
            stored += 2 * BLOCK + length  # until the folder is counted again
        in_flight += length
        try:
            body = await whole_body(receive, max_bytes=length)
        except TimeoutError:
            await send_sentence(send, 408, f"The request took longer than {BODY_SECONDS} seconds.")
        except OverflowError:
            await send_sentence(send, 413, "The request is longer than its Content-Length.")
        else:
            if body is not None:
                await app(scope, replay(body, receive), send)
        finally:
            in_flight -= length

    return answer


async def whole_body(receive: Receive, *, max_bytes: int) -> bytes | None:
    """The body of a request; None where the connection was cut off.

    Raises:
        TimeoutError: it took longer than BODY_SECONDS.
        OverflowError: it is longer than `max_bytes`.
    """
    body = bytearray()
    more, end = True, time.monotonic() + BODY_SECONDS
    while more:
        message = await asyncio.wait_for(receive(), end - time.monotonic())
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > max_bytes:
            raise OverflowError
        more = message.get("more_body", False)
    return bytes(body)


def replay(body: bytes, receive: Receive) -> Receive:
    """What an application receives of a request whose body was read: all of it at once, then what comes after."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return messages.pop() if messages else await receive()

    return next_message


def stored_bytes(folder: Path) -> int:
    """Bytes of a folder on the disk, after what is older than KEPT_SECONDS is deleted: Gradio leaves empty folders."""
    total, oldest = 0, time.time() - KEPT_SECONDS
    for parent, folders, files in os.walk(folder, topdown=False):  # thousands of names: no objects are made of them
        for name, remove in (*((name, os.unlink) for name in files), *((name, os.rmdir) for name in folders)):
            path = os.path.join(parent, name)  # noqa: PTH118
            with suppress(OSError):  # deleted in the meantime, or not empty
                status = os.lstat(path)
                total += BLOCK + (status.st_size if remove is os.unlink else 0)
                if status.st_ctime < oldest:
                    remove(path)
    return total


@contextmanager
def cleaning(uploads: Path) -> Iterator[None]:
    """Delete old uploads and return freed memory every ten seconds.

    Gradio's own task for uploads ends for ever when one comes at its moment.
    """
    ended = threading.Event()

    def clean() -> None:
        while not ended.wait(COUNT_SECONDS):
            stored_bytes(uploads)
            return_memory()

    thread = threading.Thread(target=clean, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def guard_connections(config: Any) -> None:
    """Make uvicorn drop connections that do not send a request in time, and refuse too many at once.

    Gradio starts the server without these settings; uvicorn has none for slow headers, and looks at its configuration
    again for every connection. What they log of malformed requests is no news for the terminal.

    Args:
        config: uvicorn's, of a server that has started.
    """
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class PromptProtocol(H11Protocol):
        """HTTP of which each request has to begin, and its headers to end, within HEADER_SECONDS."""

        deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self.stop_watch()

        def watch(self) -> None:
            if self.conn.their_state is not h11.IDLE:  # the headers are complete
                self.stop_watch()
            elif self.deadline is None:
                self.deadline = self.loop.call_later(HEADER_SECONDS, self.transport.close)

        def stop_watch(self) -> None:
            if self.deadline is not None:
                self.deadline.cancel()
                self.deadline = None

    config.http_protocol_class = PromptProtocol
    config.limit_concurrency = MAX_CONNECTIONS
    config.timeout_keep_alive = KEEP_ALIVE_SECONDS
    for name in ("uvicorn.error", "python_multipart", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
