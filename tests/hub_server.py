"""A local server that speaks the hub's protocol, well enough for huggingface_hub's own client."""

import hashlib
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TINY = "test_vit.r160_in1k"  # timm's own, for tests: 0.4 million parameters
# As timm writes it beside the weights of somebody's network.
CONFIG = {
    "architecture": "test_vit", "num_classes": 10, "num_features": 64,
    "pretrained_cfg": {
        "input_size": [3, 160, 160], "fixed_input_size": True, "interpolation": "bicubic", "crop_pct": 0.95,
        "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "num_classes": 10, "first_conv": "patch_embed.proj",
        "classifier": "head",
    },
}  # fmt: skip
COMMIT = "c0ffee" * 6 + "c0ff"


class Hub(ThreadingHTTPServer):
    """A hub with one repository, timm/NAME, that holds model.safetensors in the large-file store.

    Attributes:
        body: what the store sends, which may differ from what its SHA-256 promises.
        break_at: close the next download's connection after so many bytes; 0 does not.
        requests: method, path and Range header of everything that was asked.
    """

    daemon_threads = True

    def __init__(self, body: bytes) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.body = body
        self.sha256 = hashlib.sha256(body).hexdigest()
        self.break_at = 0
        self.requests: list[tuple[str, str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class HubHandler(BaseHTTPRequestHandler):
    """Answers as the hub does: metadata and a redirect from the repository, bytes and ranges from the store."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub = self.server
        hub.requests.append((self.command, self.path, self.headers.get("Range")))
        if self.path == "/":
            self.answer(200, {})
        elif self.path == f"/timm/{TINY}/resolve/main/model.safetensors":
            linked = {"X-Linked-Etag": f'"{hub.sha256}"', "X-Linked-Size": str(len(hub.body))}
            store = f"http://localhost:{hub.server_port}"  # another host, as the hub's: no metadata is asked there
            self.answer(302, {"Location": f"{store}/store/{hub.sha256}", "X-Repo-Commit": COMMIT, **linked})
        elif self.path == f"/timm/{TINY}/resolve/main/config.json":
            body = json.dumps(CONFIG).encode()
            headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": COMMIT}
            self.answer(200, headers, body)
        elif self.path == f"/store/{hub.sha256}":
            self.send_bytes()
        elif self.path.startswith(f"/timm/{TINY}/"):
            self.answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            self.answer(404, {"X-Error-Code": "RepoNotFound"})

    def send_bytes(self) -> None:
        hub, start = self.server, 0
        asked = self.headers.get("Range")
        if asked:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
        part = hub.body[start:]
        headers = {"ETag": f'"{hub.sha256}"', "Content-Length": str(len(part)), "Accept-Ranges": "bytes"}
        headers["Content-Disposition"] = 'inline; filename="model.safetensors";'  # what the progress bar shows
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(hub.body) - 1}/{len(hub.body)}"
        if hub.break_at and self.command == "GET":
            part, hub.break_at, self.close_connection = part[: hub.break_at], 0, True
        self.answer(206 if asked else 200, headers, part)


def hub_environment(hub: str, home: Path, *, offline: bool = False) -> dict[str, str]:
    """Of a fresh Python: the hub's client reads its environment once, when it is imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
    return environment | {"HF_ENDPOINT": hub, "HF_HOME": str(home), "HF_HUB_OFFLINE": str(int(offline))}
