"""The wall in front of the demo's server: which addresses it serves, to whom, and how much may be sent to it.

It answers only under its own names: otherwise a page that a visitor's browser has open elsewhere could point a name of
its own to this machine (DNS rebinding) and use the demo.

Gradio has more routes than the page needs; some of them fetch URLs, store recordings or show statistics. Whatever is
not listed here does not exist, also in later versions of Gradio.
"""

from collections.abc import Awaitable, Callable, Collection, MutableMapping, Sequence
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
MAX_HEADERS = 32 * 1024  # bytes
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


def own_names(host: str, port: int, *, others: Sequence[str] = ()) -> frozenset[str]:
    """What the header Host may say, in lower case; the address at which a connection arrives is added to it.

    Args:
        host: that the server listens on, as in a URL.
        port: that it listens on.
        others: names by which a proxy or a tunnel leads to it, with their port where it is not the usual one.
    """
    names = {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]", host)}
    if port == 80:
        names |= {name.removesuffix(":80") for name in names}
    return frozenset(name.lower() for name in {*names, *others})


def wall(app: App, *, names: Collection[str], folders: Sequence[Path], max_bytes: int) -> App:
    """An ASGI application that passes on the requests that the page needs, and refuses all others.

    Args:
        app: Gradio's.
        names: of `own_names`.
        folders: the only folders whose files may be read, resolved.
        max_bytes: of an uploaded file.
    """

    async def answer(scope: Message, receive: Receive, send: Send) -> None:
        started = False

        async def send_more(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        elif scope["type"] != "http":
            await app(scope, receive, send)
        elif refusal := refuse(scope, names=names, folders=folders, max_bytes=max_bytes):
            await send_sentence(send_more, *refusal)
        else:
            try:
                await app(scope, receive, send_more)
            except Exception:  # of Gradio, on a request that it does not expect: no traceback in the terminal
                if not started:
                    await send_sentence(send_more, 500, "The demo cannot answer this request.")

    return answer


def refuse(
    scope: Message, *, names: Collection[str], folders: Sequence[Path], max_bytes: int
) -> tuple[int, str] | None:
    """The status and sentence that refuse a request, or None for one to pass on; arguments as of `wall`."""
    if stranger := refuse_stranger(scope, names=names):
        return stranger
    if sum(len(key) + len(value) for key, value in scope["headers"]) > MAX_HEADERS:
        return 431, f"Too large: headers may have {MAX_HEADERS:,} bytes."
    if not is_served(scope["path"], folders=folders):
        return 404, "There is nothing at this address."
    if scope["method"] in ("GET", "HEAD", "OPTIONS"):
        return None
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"")  # the server reads no more than this, unless the body comes in chunks
    if not length.isdigit() or b"transfer-encoding" in headers:
        return 411, "Give the number of bytes in Content-Length."
    if int(length) > MAX_REQUEST + max_bytes * (scope["path"] == UPLOAD):
        return 413, f"Too large: a file may have {max_bytes:,} bytes, any other request {MAX_REQUEST:,}."
    return None


def refuse_stranger(scope: Message, *, names: Collection[str]) -> tuple[int, str] | None:
    """The status and sentence that refuse a request under another name, or from another site's page, or None."""
    hosts = [value.decode("latin-1").lower() for key, value in scope["headers"] if key == b"host"]
    origins = [value.decode("latin-1").lower() for key, value in scope["headers"] if key == b"origin"]
    address, port = scope.get("server") or ("", None)
    arrived_at = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    if len(hosts) != 1 or hosts[0] not in {*names, arrived_at}:
        return 421, (
            "The demo does not answer under this name: open the address that it printed, or start it with "
            "--allow-host NAME:PORT."
        )
    if any(origin not in (f"http://{hosts[0]}", f"https://{hosts[0]}") for origin in origins):
        return 403, "The demo answers its own page and programs, but no page of another site."
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
