"""A local server that takes uploads by the hub's protocol, well enough for huggingface_hub's own client.

Written from what the client sends and expects, git-lfs' batch API among it. It keeps what a commit names, and only once
the large files of that commit have come whole.
"""

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

OID = "feedface" * 5
WRITER, READER = "hf_writer", "hf_reader"  # tokens: of someone, who may write to someone/…; of one who may only read
LARGE = (".safetensors", ".png")  # what goes to the large-file store, by name; the rest by size
PART = 500_000  # bytes a piece of an upload in pieces


@dataclass
class Repository:
    """What the hub knows of a repository: every commit's message and the files after the last."""

    private: bool
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b"*.safetensors filter=lfs\n"})
    commits: list[str] = field(default_factory=list)


class UploadHub(ThreadingHTTPServer):
    """A hub with no repositories yet.

    Attributes:
        in_parts: whether the store asks for pieces.
        gone_at: close the connection without an answer on paths that hold this text; "" does not.
        status_at: answer paths that hold a text with a status.
        requests: method and path of everything that was asked, in order.
        store: large files by SHA-256, verified.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), UploadHandler)
        self.in_parts = False
        self.gone_at = ""
        self.status_at: dict[str, int] = {}
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str]] = []
        self.store: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.verified: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class UploadHandler(BaseHTTPRequestHandler):
    """Answers as the hub does."""

    server: UploadHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, value: Any = None, **headers: str) -> None:
        body = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), "Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def handle_request(self) -> None:
        hub, body = self.server, self.body()
        hub.requests.append((self.command, self.path))
        if hub.gone_at and hub.gone_at in self.path:
            self.close_connection = True
            return
        for text, status in hub.status_at.items():
            if text in self.path:
                self.answer(status, {"error": "as the test wants"})
                return
        for method, pattern, action in (
            ("HEAD", "/", self.front_page),
            ("POST", "/api/repos/create", self.create),
            ("POST", "/api/validate-yaml", self.validate),
            ("GET", "/api/(?:models|spaces)/([^/]+/[^/]+)", self.information),
            ("POST", "/api/(?:models|spaces)/([^/]+/[^/]+)/preupload/main", self.preupload),
            ("POST", "/(?:spaces/)?([^/]+/[^/]+)[.]git/info/lfs/objects/batch", self.batch),
            ("PUT", "/store/([0-9a-f]{64})", self.keep),
            ("PUT", "/store/([0-9a-f]{64})/([0-9]+)", self.keep_part),
            ("POST", "/store/([0-9a-f]{64})/complete", self.complete),
            ("POST", "/verify", self.verify),
            ("POST", "/api/(?:models|spaces)/([^/]+/[^/]+)/commit/main", self.commit),
        ):
            found = re.fullmatch(pattern, self.path.partition("?")[0])
            if found and method == self.command:
                action(*found.groups(), body)
                return
        self.answer(404, {"error": f"not a path of this stand-in: {self.path}"})

    do_HEAD = do_GET = do_POST = do_PUT = handle_request  # noqa: N815

    def token(self) -> str:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def may_write(self, repository: str) -> bool:
        """Whether the token may; answers if not."""
        if self.token() not in (WRITER, READER):
            self.answer(401, {"error": "Invalid username or password."})
            return False
        if self.token() == READER or not repository.startswith("someone/"):
            self.answer(403, {"error": "You don't have the rights to write here"})
            return False
        return True

    def front_page(self, _: bytes) -> None:
        self.answer(200)

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        assert asked.get("type", "model") in ("model", "space"), asked
        assert asked.get("sdk") == ("gradio" if asked.get("type") == "space" else None), asked
        if not self.may_write(name):
            return
        url = {"url": f"{self.server.url}/{name}"}
        if name in self.server.repositories:
            self.answer(409, url | {"error": "You already created this model repo"})
        else:
            self.server.repositories[name] = Repository(private=asked.get("visibility") == "private")
            self.answer(200, url)

    def information(self, name: str, _: bytes) -> None:
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and self.token() != WRITER):
            self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return
        siblings = [{"rfilename": path} for path in repository.files]
        self.answer(200, {"id": name, "private": repository.private, "sha": OID, "siblings": siblings})

    def validate(self, body: bytes) -> None:
        """What the hub's own validation insists on, in part: a header that is YAML, and a whole list of results."""
        content = json.loads(body)["content"]
        header = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        metadata = yaml.safe_load(header[1]) if header else None
        problems = []
        if not isinstance(metadata, dict) or not isinstance(metadata.get("license"), str):
            problems.append("license is missing")
        else:
            for result in metadata.get("model-index", [{"results": []}])[0]["results"]:
                if not {"task", "dataset", "metrics"} <= result.keys():
                    problems.append("a result without task, dataset or metrics")
        errors = [{"message": problem} for problem in problems]
        self.answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def preupload(self, name: str, body: bytes) -> None:
        if not self.may_write(name):
            return
        files = []
        for file in json.loads(body)["files"]:
            assert len(base64.b64decode(file["sample"])) == min(512, file["size"]), file
            large = file["path"].endswith(LARGE) or file["size"] > 10_000_000
            files.append({"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False})
        self.answer(200, {"files": files})

    def batch(self, name: str, body: bytes) -> None:
        asked, hub = json.loads(body), self.server
        if not self.may_write(name):
            return
        assert asked["operation"] == "upload"
        assert asked["hash_algo"] == "sha256"
        objects = []
        for one in asked["objects"]:
            oid, size = one["oid"], one["size"]
            upload: dict[str, Any] = {"href": f"{hub.url}/store/{oid}"}
            if hub.in_parts:
                count = -(-size // PART)
                pieces = {str(number): f"{hub.url}/store/{oid}/{number}" for number in range(1, count + 1)}
                upload = {"href": f"{hub.url}/store/{oid}/complete", "header": {"chunk_size": str(PART), **pieces}}
            actions = {"upload": upload, "verify": {"href": f"{hub.url}/verify"}}
            known = {} if oid in hub.store else {"actions": actions}
            objects.append({"oid": oid, "size": size, **known})
        self.answer(200, {"transfer": "multipart" if hub.in_parts else "basic", "objects": objects})

    def keep(self, oid: str, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self.answer(400, {"error": "other bytes than promised"})
            return
        self.server.store[oid] = body
        self.answer(200)

    def keep_part(self, oid: str, number: str, body: bytes) -> None:
        self.server.parts.setdefault(oid, {})[int(number)] = body
        self.answer(200, ETag=f'"{hashlib.md5(body).hexdigest()}"')

    def complete(self, oid: str, body: bytes) -> None:
        parts = self.server.parts[oid]
        for one in json.loads(body)["parts"]:
            assert one["etag"] == f'"{hashlib.md5(parts[one["partNumber"]]).hexdigest()}"', one
        self.keep(oid, b"".join(parts[number] for number in sorted(parts)))

    def verify(self, body: bytes) -> None:
        asked = json.loads(body)
        whole = len(self.server.store.get(asked["oid"], b"")) == asked["size"]
        self.server.verified.add(asked["oid"])
        self.answer(200 if whole else 404)

    def commit(self, name: str, body: bytes) -> None:
        hub = self.server
        if not self.may_write(name):
            return
        lines = [json.loads(line) for line in body.splitlines()]
        assert lines[0]["key"] == "header", lines[0]
        files = {}
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile" and value["oid"] in hub.store:
                files[value["path"]] = hub.store[value["oid"]]
            else:
                self.answer(400, {"error": f"{value['path']} is not in the store"})
                return
        hub.repositories[name].files |= files
        hub.repositories[name].commits.append(lines[0]["value"]["summary"])
        self.answer(200, {"success": True, "commitUrl": f"{hub.url}/{name}/commit/{OID}", "commitOid": OID})
