"""References: whole and verified or not there, by a real HTTP server; the copies at hand are those of the table."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cifar.audit import references
from cifar.audit.references import REFERENCES, reference_file
from cifar.data.cache import cache_folder
from cifar.errors import InputError, WorldError

COPIES = Path(__file__).parents[2].parent / "shared" / "data"
NAME = "cifar10h-counts.npy"


class Server(http.server.BaseHTTPRequestHandler):
    content = b""
    break_after: int | None = None  # bytes of the next answer
    status = 200
    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        kind = type(self)
        kind.asked.append(self.path)
        if kind.status != 200:
            self.send_error(kind.status)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(kind.content)))
        self.end_headers()
        end, kind.break_after = kind.break_after, None
        self.wfile.write(kind.content[:end])
        if end is not None:
            self.wfile.flush()
            self.connection.close()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    content = bytes(range(256)) * 200
    handler = type("Handler", (Server,), {"content": content, "asked": []})
    known = references.Reference("a/b/c.npy", hashlib.sha256(content).hexdigest(), "CC BY-NC-SA 4.0", "counts")
    monkeypatch.setitem(REFERENCES, NAME, known)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(references, "SERVER", f"http://127.0.0.1:{running.server_port}")
        yield handler
        running.shutdown()


def files() -> list[str]:
    return sorted(path.name for path in (cache_folder() / "references").iterdir())


def test_a_reference_is_fetched_once_with_its_licence_shown(server: type[Server]) -> None:
    said: list[str] = []
    seen: list[tuple[str, int, int]] = []
    for _ in range(2):
        path = reference_file(NAME, say=said.append, progress=lambda *state: seen.append(state))
        assert path == cache_folder() / "references" / NAME
        assert path.read_bytes() == server.content
    assert server.asked == ["/a/b/c.npy"]
    assert len(said) == 1
    assert "licence: CC BY-NC-SA 4.0" in said[0]
    assert seen[-1] == (NAME, len(server.content), len(server.content))
    assert files() == [NAME]


def test_a_damaged_file_in_the_cache_is_fetched_anew(server: type[Server]) -> None:
    path = reference_file(NAME)
    path.write_bytes(server.content[:-1] + b"?")
    assert reference_file(NAME).read_bytes() == server.content
    assert len(server.asked) == 2


def test_a_file_placed_by_hand_is_taken_only_if_it_is_right(server: type[Server]) -> None:
    server.status = 503
    folder = cache_folder() / "references"
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(b"something else")
    with pytest.raises(WorldError, match="status 503"):
        reference_file(NAME)
    (folder / NAME).write_bytes(server.content)
    assert reference_file(NAME) == folder / NAME


def test_a_broken_connection_is_tried_again(server: type[Server]) -> None:
    server.break_after = 10_000
    assert reference_file(NAME).read_bytes() == server.content
    assert len(server.asked) == 2


def test_wrong_bytes_are_not_kept_and_the_remedy_is_said(server: type[Server]) -> None:
    server.content = b"no, these"
    with pytest.raises(WorldError, match=r"c\.npy brings other bytes .* place the file in .*references"):
        reference_file(NAME)
    assert files() == []


def test_no_server_is_one_sentence(server: type[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "SERVER", "http://127.0.0.1:9")
    with pytest.raises(WorldError, match=r"no connection.*place the file"):
        reference_file(NAME)
    assert server.asked == []
    assert files() == []


def test_a_forbidden_disk_is_one_sentence(server: type[Server]) -> None:
    cache_folder().mkdir()
    (cache_folder() / "references").write_text("a file where the folder belongs")
    with pytest.raises(WorldError, match=r"references: .*CIFAR_HOME"):
        reference_file(NAME)
    assert server.asked == []


def test_an_unknown_reference_names_the_choices() -> None:
    with pytest.raises(InputError, match=r"cifar10h-probs\.npy"):
        reference_file("imagenet.npy")


def test_the_table_is_whole_and_pinned_to_commits() -> None:
    assert sum("Recht" in reference.what for reference in REFERENCES.values()) == 30
    assert len(REFERENCES) == 37
    for name, reference in REFERENCES.items():
        repository, commit = reference.path.split("/")[1:3]
        assert repository
        assert len(commit) == 40
        assert len(reference.sha256) == 64
        assert reference.url.startswith("https://raw.githubusercontent.com/")
        assert Path(name).suffix in (".npy", ".json", ".csv")


@pytest.mark.skipif(not COPIES.is_dir(), reason="no copies at hand")
def test_the_copies_at_hand_are_those_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "SERVER", "http://127.0.0.1:9")
    folder = cache_folder() / "references"
    folder.mkdir(parents=True)
    sums = {
        line.split()[1].rpartition("/")[2]: line.split()[0] for line in (COPIES / "SHA256SUMS").read_text().splitlines()
    }
    assert {name: reference.sha256 for name, reference in REFERENCES.items()} == sums
    for copy in COPIES.glob("*/*"):
        (folder / copy.name).write_bytes(copy.read_bytes())
        assert reference_file(copy.name) == folder / copy.name
