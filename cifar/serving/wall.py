"""The wall in front of the demo's server: which addresses it serves, and how much may be sent to it.

Gradio has more routes than the page needs; some of them fetch URLs, store recordings or show statistics. Whatever is
not listed here does not exist, also in later versions of Gradio.
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
MAX_REQUEST = 64 * 1024  # bytes of a request that uploads nothing, and of the parts of an upload around its file

# The browser, too, may fetch from this server only. Gradio's page has inline scripts and styles.
HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
        b"style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; form-action 'self'",
    ),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


def wall(app: App, *, folders: Sequence[Path], max_bytes: int) -> App:
    """An ASGI application that passes on the requests that the page needs, and refuses all others.

    Args:
        app: Gradio's.
        folders: the only folders whose files may be read, resolved.
        max_bytes: of an uploaded file.
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
        elif refusal := refuse(scope, folders=folders, max_bytes=max_bytes):
            await send_sentence(send_more, *refusal)
        else:
            await app(scope, receive, send_more)

    return answer


def refuse(scope: Message, *, folders: Sequence[Path], max_bytes: int) -> tuple[int, str] | None:
    """The status and sentence that refuse a request, or None for one to pass on; arguments as of `wall`."""
    if not is_served(scope["path"], folders=folders):
        return 404, "There is nothing at this address."
    if scope["method"] in ("GET", "HEAD", "OPTIONS"):
        return None
    length = dict(scope["headers"]).get(b"content-length", b"")  # the server reads no more than this
    if not length.isdigit():
        return 411, "Give the number of bytes in Content-Length."
    if int(length) > MAX_REQUEST + max_bytes * (scope["path"] == UPLOAD):
        return 413, f"Too large: a file may have {max_bytes:,} bytes, any other request {MAX_REQUEST:,}."
    return None


def is_served(path: str, *, folders: Sequence[Path]) -> bool:
    """Whether a path (percent-decoded) is a route of Gradio's that the page needs, or a file in one of the folders."""
    if path.startswith(FILE):
        try:
            file = Path(path.removeprefix(FILE)).resolve()
        except (OSError, ValueError):  # too long for a path, or with a zero byte
            return False
        return any(file.is_relative_to(folder) for folder in folders)
    return (path.rstrip("/") or "/") in PAGES or path.startswith(BELOW)


async def send_sentence(send: Send, status: int, sentence: str) -> None:
    """Respond with plain text."""
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{sentence}\n".encode()})
