"""The wall before the demo's server: which addresses it answers at all, and how much may be sent to it.

Gradio brings more doors than the page needs: some fetch addresses from the network, hold recordings or show statistics.
What is not named here is not there, whatever a later version adds.
"""

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

API = "/gradio_api/"
UPLOAD = f"{API}upload"
FILE = f"{API}file="
PAGES = frozenset(
    {"/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt", UPLOAD}
    | {f"{API}{name}" for name in ("info", "startup-events", "upload_progress", "queue/join", "queue/data", "reset")}
    | {f"{API}{name}" for name in ("cancel", "theme.css")}
)
BELOW = ("/assets/", "/static/", f"{API}call/", f"{API}heartbeat/")
MOST_REQUEST = 64 * 1024  # bytes of a request that uploads nothing, and of what surrounds an uploaded file

# The browser, too, is told to fetch from this server alone. Gradio's page holds scripts and styles in its HTML.
HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
        b"style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; form-action 'self'",
    ),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


def wall(app: App, *, folders: Sequence[Path], most_bytes: int) -> App:
    """An ASGI application that hands on what the page needs, and answers everything else itself.

    Args:
        app: Gradio's.
        folders: the only ones whose files may be read through it, resolved.
        most_bytes: of an uploaded file.
    """

    async def answer(scope: Message, receive: Receive, send: Send) -> None:
        async def send_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        elif scope["type"] != "http":
            await app(scope, receive, send)
        elif refusal := refuse(scope, folders=folders, most_bytes=most_bytes):
            await send_sentence(send_more, *refusal)
        else:
            await app(scope, receive, send_more)

    return answer


def refuse(scope: Message, *, folders: Sequence[Path], most_bytes: int) -> tuple[int, str] | None:
    """The status and sentence that a request is refused with, or None where it is handed on."""
    if not is_served(scope["path"], folders=folders):
        return 404, "There is nothing at this address."
    if scope["method"] in ("GET", "HEAD", "OPTIONS"):
        return None
    length = dict(scope["headers"]).get(b"content-length", b"")  # the server holds the sender to it
    if not length.isdigit():
        return 411, "Say how many bytes there are, in Content-Length."
    if int(length) > MOST_REQUEST + most_bytes * (scope["path"] == UPLOAD):
        return 413, f"Too much: a file may have {most_bytes:,} bytes, any other request {MOST_REQUEST:,}."
    return None


def is_served(path: str, *, folders: Sequence[Path]) -> bool:
    """Whether there is anything at a path (percent-decoded): a page of Gradio's that is needed, or a readable file."""
    if path.startswith(FILE):
        try:
            file = Path(path.removeprefix(FILE)).resolve()
        except (OSError, ValueError):  # longer than paths may be, or with a zero byte
            return False
        return any(file.is_relative_to(folder) for folder in folders)
    return (path.rstrip("/") or "/") in PAGES or path.startswith(BELOW)


async def send_sentence(send: Send, status: int, sentence: str) -> None:
    """Answer with plain text."""
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{sentence}\n".encode()})
