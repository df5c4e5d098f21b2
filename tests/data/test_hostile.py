"""Copies of CIFAR-10 from strangers: whatever they hold, one sentence, in bounded time and memory, nothing executed."""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import random
import resource
import socket
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cifar.data import archives, class_folders
from cifar.data.archives import read_archive
from cifar.data.cifar10 import Dataset, load, open_dataset
from cifar.data.decode import decode_path
from cifar.data.pickles import read_batch
from cifar.data.split import CLASSES, Split
from cifar.errors import InputError, WorldError

STEMS = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def images(sample: Dataset) -> Split:
    """Three images a batch, 18 in all: the last three stand for the test images."""
    train, test = load(sample, "train"), load(sample, "test")
    return Split(torch.cat([train.images[:15], test.images[:3]]), torch.cat([train.labels[:15], test.labels[:3]]))


def pickled(images: Split, *, protocol: int = 2) -> Files:
    batches = zip(STEMS, images.images.flatten(1).numpy().reshape(6, 3, 3072), images.labels.view(6, 3), strict=True)
    return {
        stem: pickle.dumps({b"data": pixels, b"labels": labels.tolist(), b"filenames": [b"a", b"b"]}, protocol=protocol)
        for stem, pixels, labels in batches
    }


def sheets(images: Split) -> Files:
    files = {}
    for stem, pixels in zip(STEMS, images.images.view(6, 3, 3, 1024).permute(0, 1, 3, 2).numpy(), strict=True):
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
        files[f"{stem}.png"] = buffer.getvalue()
    labels = images.labels.tolist()
    return files | {
        "train_lables.json": json.dumps(labels[:15]).encode(),
        "test_lables.json": json.dumps(labels[15:]).encode(),
    }


def class_files(splits: tuple[Split, Split], *, kind: str = "PNG") -> Files:
    files = {}
    for split_name, split in zip(("train", "test"), splits, strict=True):
        for number, (image, label) in enumerate(zip(split.images, split.labels.tolist(), strict=True)):
            buffer = io.BytesIO()
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, kind)
            files[f"root/{split_name}/{CLASSES[label]}/{number}.png"] = buffer.getvalue()
    return files


def tarred(files: Files) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), 1.5  # which needs an extended header
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zipped(files: Files) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def write(folder: Path, files: Files) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def refusal(path: Path | str) -> str:
    """The sentence by which a copy is refused, within the limits on time and memory."""
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises((WorldError, InputError)) as caught:
        open_dataset(str(path))
    assert time.monotonic() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10**6  # in kB, except on macOS
    assert str(caught.value).isprintable()
    return str(caught.value)


# The pickles.


def official_pickle(pixels: bytes, labels: list[int]) -> bytes:
    """A batch as Python 2 and its numpy wrote it, opcode by opcode; memos are left out where they are not used."""

    def text(content: bytes) -> bytes:
        return (
            b"U" + bytes([len(content)]) if len(content) < 256 else b"T" + struct.pack("<I", len(content))
        ) + content

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85q\x03"
        + text(b"b")
        + b"\x87q\x04Rq\x05"
    )
    array += (
        b"(K\x01K"
        + bytes([len(labels)])
        + b"M\x00\x0c\x86q\x06cnumpy\ndtype\nq\x07"
        + text(b"u1")
        + b"K\x00K\x01\x87q\x08Rq\x09"
    )
    array += b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + text(pixels) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    names = b"](" + b"".join(text(b"leptodactylus_s_000004.png") for _ in labels) + b"e"
    values = {b"batch_label": text(b"training batch 1 of 5"), b"labels": numbers, b"data": array, b"filenames": names}
    return b"\x80\x02}q\x00(" + b"".join(text(key) + value for key, value in values.items()) + b"u."


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_a_pickle_reads_as_pythons_unpickler_reads_it(protocol: int, images: Split) -> None:
    """Protocol 0 stands for the official files, which Python 3 cannot write."""
    pixels, labels = images.images[:3].flatten(1).numpy(), images.labels[:3].tolist()
    if protocol == 0:
        content = official_pickle(pixels.tobytes(), labels)
    else:
        content = pickle.dumps({b"data": np.asfortranarray(pixels), b"labels": np.array(labels)}, protocol=protocol)
    reference = pickle.loads(content, encoding="bytes")
    data, read = read_batch(content)
    assert (data.dtype, read.dtype) == (np.uint8, np.int64)
    assert np.array_equal(data, reference[b"data"])
    assert np.array_equal(read, reference[b"labels"])


def doubled() -> list[Any]:
    """A list of two times a list of two times a list …: 2⁶⁰ leaves in a pickle of a kilobyte."""
    value: list[Any] = [1]
    for _ in range(60):
        value = [value, value]
    return value


class Call:
    """Unpickled by Python's loader, this would be a call."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.parts


ROW = np.zeros((1, 3072), np.uint8)
RAW_POINTERS = (3, "|", None, None, None, -1, -1, 63)  # the state of a dtype of Python objects


@pytest.mark.parametrize(
    "batch, words",
    [
        ({b"data": ROW, b"labels": doubled()}, "numbers from 0 to 9"),
        ({b"data": doubled(), b"labels": [1]}, "3,072 bytes"),
        ({b"data": ROW, b"labels": [7.5]}, "opcode"),
        ({b"data": ROW, b"labels": [10]}, "numbers from 0 to 9"),
        ({b"data": ROW, b"labels": [-1]}, "numbers from 0 to 9"),
        ({b"data": ROW, b"labels": np.array([2**40])}, "numbers from 0 to 9"),
        ({b"data": ROW, b"labels": [True]}, "numbers from 0 to 9"),
        ({b"data": ROW, b"labels": [1, 2]}, "3,072 bytes"),
        ({b"data": ROW.astype(np.float64), b"labels": [1]}, "calls numpy.dtype"),
        ({b"data": np.array([[None] * 3072]), b"labels": [1]}, "calls numpy.dtype"),
        ({b"data": ROW.astype(">i8"), b"labels": [1]}, "little-endian"),
        ({b"data": Call(np.dtype, "u1", False, True, state=RAW_POINTERS), b"labels": [1]}, "3,072 bytes"),
        ({(1, 2): 3}, "SETITEM"),
        ([1, 2], "dictionary"),
        ({b"data": Call(os.system, "touch evil"), b"labels": [1]}, "asks for 'posix.system'"),
        ({b"data": Call(eval, "1"), b"labels": [1]}, "eval"),
    ],
)
def test_a_pickle_of_anything_else_is_refused(batch: Any, words: str, tmp_path: Path) -> None:
    content = pickle.dumps(batch, protocol=2)
    assert words in refusal(write(tmp_path, dict.fromkeys(STEMS, content)))


def test_a_pickle_that_repeats_or_never_ends_is_refused() -> None:
    encode = b"c_codecs\nencode\nq\x00X\x40\x42\x0f\x00" + 10**6 * b"a" + b"q\x01X\x06\x00\x00\x00latin1q\x02\x86q\x03R"
    for content, words in (
        (b"\x80\x02" + encode + 200 * b"h\x00h\x03R" + b".", "repeats bytes"),
        (b"\x80\x02]" + 10**6 * b"K\x01a" + b".", "opcodes"),
        (b"\x80\x02" + 200_000 * b"(" + b".", "no dictionary"),
        (b"\x80\x02]" + 100 * b"h\x00", "nothing to work on"),
        (b"\x80\x02}", "exhausted"),
        (b"", "exhausted"),
    ):
        began = time.monotonic()
        with pytest.raises(ValueError, match=words):
            read_batch(content)
        assert time.monotonic() - began < 5


# The archives.


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress], ids=["tar", "gz", "bz2", "xz"])
def test_every_compression_of_tar_is_read(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    files = {f"{60 * 'long/'}{60 * 'path/'}{name}": name.encode() for name in ("a", "b")} | {"c": b""}
    (tmp_path / "a").write_bytes(pack(tarred(files)))
    assert {str(name): content for name, content in read_archive(tmp_path / "a", lambda _: True)} == files
    with tarfile.open(tmp_path / "a") as archive:
        assert [member.name for member in archive] == list(files)


def test_an_archive_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = bytes(2**20)
    monkeypatch.setattr("cifar.data.archives.MAX_BYTES", 3 * 2**20)  # as 320 MiB, sooner
    monkeypatch.setattr("cifar.data.archives.MAX_MEMBERS", 300)
    members = b"".join(header(f"data_batch_{i}", len(zeros)) + zeros for i in range(1, 6))
    copies = {
        "members.gz": (gzip.compress(members, 1), "MB of content"),
        "members.bz2": (bz2.compress(members), "MB of content"),
        "members.zip": (zipped(dict.fromkeys(STEMS, zeros)), "MB of content"),
        "pax.gz": (gzip.compress(header("x", 3 * 10**9, tarfile.XHDTYPE) + zeros, 1), "MB of content"),
        "long.gz": (gzip.compress(header("x", 3 * 10**9, tarfile.GNUTYPE_LONGNAME) + zeros, 1), "MB of content"),
        "global.gz": (gzip.compress(header("x", 3 * 10**9, tarfile.XGLTYPE) + zeros, 1), "MB of content"),
        "large.tar": (header("data_batch_1", 10**9), "member of 1,000,000,000 bytes"),
        "many.gz": (gzip.compress(b"".join(header(f"{i}", 0) for i in range(400)), 1), "300 members"),
        "many.zip": (zipped({f"{i}": b"" for i in range(400)}), "300 members"),
        "sparse.tar": (header("data_batch_1", 512, tarfile.GNUTYPE_SPARSE) + bytes(512), "no plain file"),
    }
    for name, (content, words) in copies.items():
        (tmp_path / name).write_bytes(content)
        assert words in refusal(tmp_path / name), name


def test_the_limits_leave_room_for_the_data() -> None:
    """The largest real copy, pickled by Python 3 in protocol 2, and class folders packed by macOS with dot files."""
    noise = np.random.default_rng(0).integers(0, 256, (200, 3072), dtype=np.uint8)
    pickled_bytes = 50 * len(pickle.dumps({b"data": noise, b"labels": 200 * [1]}, protocol=2))
    assert pickled_bytes < archives.MAX_MEMBER_BYTES
    assert 6 * pickled_bytes < archives.MAX_BYTES
    names = "cifar/train/automobile/12345_automobile.png", "__MACOSX/cifar/train/automobile/._12345_automobile.png"
    assert 60_024 * len(names) < archives.MAX_MEMBERS
    assert 60_024 * (sum(map(len, names)) + 2 * (46 + 32)) < archives.MAX_TABLE_BYTES


# The formats, as people have them.


@pytest.fixture(scope="module")
def one_of_each(sample: Dataset) -> tuple[Split, Split]:
    """The first training and test image of every class of the sample, in the original order."""
    splits = (load(sample, "train"), load(sample, "test"))
    firsts = [sorted(split.labels.tolist().index(label) for label in range(10)) for split in splits]
    return splits[0].select(torch.tensor(firsts[0])), splits[1].select(torch.tensor(firsts[1]))


def assert_same(decoded: tuple[Split, Split], expected: tuple[Split, Split]) -> None:
    for split, original in zip(decoded, expected, strict=True):
        assert torch.equal(split.images, original.images)
        assert torch.equal(split.labels, original.labels)


DOT_FILES = {
    "._data_batch_1": b"\x00",
    ".DS_Store": b"\x00",
    "__MACOSX/._data_batch_1": b"\x00",
    ".hidden/test_batch": b"\x00",
}


@pytest.mark.parametrize("pack", [None, tarred, zipped], ids=["folder", "tar", "zip"])
@pytest.mark.parametrize("form", [pickled, sheets])
def test_official_files_are_read_beside_dot_files(
    form: Callable[[Split], Files], pack: Callable[[Files], bytes] | None, images: Split, tmp_path: Path
) -> None:
    files = {f"cifar/{name}": content for name, content in (DOT_FILES | form(images)).items()}
    path = write(tmp_path / "folder", files) if pack is None else tmp_path / "archive"
    if pack is not None:
        path.write_bytes(pack(files))
    assert_same(decode_path(path), (images.select(torch.arange(15)), images.select(torch.arange(15, 18))))


@pytest.mark.parametrize("pack", [None, tarred, zipped], ids=["folder", "tar", "zip"])
def test_class_folders_are_read_beside_dot_files(
    pack: Callable[[Files], bytes] | None, one_of_each: tuple[Split, Split], tmp_path: Path
) -> None:
    files = class_files(one_of_each)
    dots = (
        "root/train/cat/._3.png",
        "root/.DS_Store",
        "__MACOSX/root/train/cat/._0.png",
        "root/train/cat/.x/train/cat/1.png",
    )
    files |= dict.fromkeys(dots, b"no image")
    path = write(tmp_path / "folder", files) if pack is None else tmp_path / "archive"
    if pack is not None:
        path.write_bytes(pack(files))
    assert_same(decode_path(path), one_of_each)


@pytest.mark.parametrize("name", ["cifar-10-python.tar.gz", "cifar-10-binary.tar.gz"])
def test_a_folder_that_holds_only_the_archive_is_read(name: str, images: Split, tmp_path: Path) -> None:
    files = pickled(images)
    if "binary" in name:
        records = torch.cat([images.labels[:, None].to(torch.uint8), images.images.flatten(1)], dim=1).view(6, -1)
        files = {f"{stem}.bin": record.numpy().tobytes() for stem, record in zip(STEMS, records, strict=True)}
    write(tmp_path, {name: gzip.compress(tarred(files)), "notes.txt": b"", ".DS_Store": b"\x00"})
    assert_same(decode_path(tmp_path), (images.select(torch.arange(15)), images.select(torch.arange(15, 18))))


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil", "a\\..\\evil", "train/cat/../../../evil.png"])
def test_a_zip_member_that_would_leave_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "evil.zip").write_bytes(zipped({name: b"evil"}))
    assert "would leave the folder" in refusal(tmp_path / "evil.zip")


def test_a_link_or_pipe_in_a_zip_is_refused(tmp_path: Path) -> None:
    for kind in (0o120777, 0o010777, 0o020777):
        with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
            member = zipfile.ZipInfo("data_batch_1")
            member.create_system, member.external_attr = 3, kind << 16
            archive.writestr(member, "/etc/passwd")
        assert "would leave the folder" in refusal(tmp_path / "link.zip")


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("test_lables.json", b"[7.5, 1, 2]", "numbers from 0 to 9"),
        ("test_lables.json", b"[1e400, 1, 2]", "numbers from 0 to 9"),
        ("test_lables.json", b"[NaN, 1, 2]", "numbers from 0 to 9"),
        ("test_lables.json", b"[[1], [2], [3]]", "numbers from 0 to 9"),
        ("test_lables.json", b"[true, 1, 2]", "numbers from 0 to 9"),
        ("test_lables.json", b"[10, 1, 2]", "numbers from 0 to 9"),
        ("test_lables.json", b'{"labels": []}', "numbers from 0 to 9"),
        ("test_lables.json", b"[1, 2]", "2 labels for 3 images"),
        ("test_lables.json", b"[1, 2, 3, 4]", "4 labels for 3 images"),
        ("test_lables.json", b"[" * 100_000, "cannot be read"),
        ("test_lables.json", b"[1" + b"0" * 5000 + b", 1, 2]", "cannot be read"),
        ("test_lables.json", b"\xff\xfe", "cannot be read"),
        ("train_lables.json", b"[" + b"1, " * 10**6 + b"1]", "numbers from 0 to 9"),
        ("test_batch.png", b"no image", "cannot be read"),
    ],
)
def test_a_fault_in_sheets_is_named(name: str, content: bytes, words: str, images: Split, tmp_path: Path) -> None:
    message = refusal(write(tmp_path, sheets(images) | {name: content}))
    assert name in message
    assert words in message


def png_of(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(15_000, 15_000), (1_024, 30_000), (100, 1)])
def test_an_image_of_another_size_is_refused_before_it_is_decoded(
    size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = png_of(*size)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("it was decoded"))
    labels = {"train_lables.json": b"[1]", "test_lables.json": b"[1]"}
    assert "data_batch_1.png" in refusal(write(tmp_path / "a", {f"{stem}.png": bomb for stem in STEMS} | labels))
    assert "train/airplane" in refusal(write(tmp_path / "b", dict.fromkeys(FIRST_CLASS, bomb)))


FIRST_CLASS = ("train/airplane/1.png", "test/airplane/1.png")


def test_an_image_that_would_start_a_program_is_refused(tmp_path: Path) -> None:
    """Pillow hands PostScript to Ghostscript, whatever the file's name ends in."""
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n"
    assert "cannot be read (no image)" in refusal(write(tmp_path, dict.fromkeys(FIRST_CLASS, postscript)))


# The file system.


def test_only_regular_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a pipe waits for ever; reading /dev/zero fills the memory."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")  # a longer name is too long
        for path in (tmp_path / "pipe", tmp_path / "socket", "/dev/zero", "/dev/null"):
            assert "is a device, pipe or socket" in refusal(path)
    for name in ("data_batch_1", "cifar-10-python.tar.gz", "train/airplane/1.png"):
        for number, target in enumerate((tmp_path / "pipe", Path("/dev/zero"))):
            file = tmp_path / f"{number}{Path(name).name}" / name
            for parent in (file.parent, file.parent.parent.parent / "test" / "airplane"):
                parent.mkdir(parents=True, exist_ok=True)
            for link in {file, *(map(file.with_name, STEMS) if name in STEMS else ())}:
                link.symlink_to(target)
            assert "not a regular file" in refusal(tmp_path / f"{number}{Path(name).name}")


def test_odd_names_and_loops_are_one_sentence(tmp_path: Path, images: Split) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert "cannot be opened (Too many levels" in refusal(tmp_path / "loop")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "again").symlink_to("../folder")
    (tmp_path / "folder" / "itself").symlink_to("itself")
    assert "holds neither" in refusal(tmp_path / "folder")
    (tmp_path / "folder" / "data_batch_1").symlink_to("data_batch_1")
    assert "folder/data_batch_1 cannot be read" in refusal(tmp_path / "folder")
    assert "cannot be opened (File name too long)" in refusal("x" * 5000)
    assert "cannot be opened" in refusal("zero\0byte")
    assert "cannot be opened" in refusal("~no-such-person/cifar")
    odd = tmp_path / os.fsdecode(b"not utf-8 \xff\n\x1b[31m")
    write(odd, pickled(images))
    assert r"not utf-8 \udcff\n\x1b[31m is not CIFAR-10" in refusal(odd)


def test_what_may_not_be_read_is_named(tmp_path: Path, images: Split) -> None:
    write(tmp_path / "a", pickled(images))
    (tmp_path / "a" / "test_batch").chmod(0)
    if os.access(tmp_path / "a" / "test_batch", os.R_OK):
        pytest.skip("this user may read everything")
    assert "test_batch cannot be read (Permission denied)" in refusal(tmp_path / "a")
    (tmp_path / "b").mkdir(0)
    (tmp_path / "a" / "test_batch").chmod(0o600)
    assert_same(decode_path(tmp_path), (images.select(torch.arange(15)), images.select(torch.arange(15, 18))))
    (tmp_path / "a").rename(tmp_path / "c")
    assert_same(decode_path(tmp_path), (images.select(torch.arange(15)), images.select(torch.arange(15, 18))))
    (tmp_path / "c").rename(tmp_path / "a")
    (tmp_path / "a").chmod(0)
    assert "a cannot be read (Permission denied)" in refusal(tmp_path)
    assert "Permission denied" in refusal(tmp_path / "a")
    assert "Permission denied" in refusal(tmp_path / "a" / "test_batch")
    (tmp_path / "a").chmod(0o700)


# Thousands of damaged copies, of which the suite tries the first few hundred.


def damage(content: bytes, draw: random.Random) -> bytes:
    """Flip, cut, repeat or overwrite bytes, mostly near the front, where the headers are."""
    damaged = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        at = draw.randrange(min(len(damaged), draw.choice((600, len(damaged))))) if damaged else 0
        number = draw.choice((b"\xff" * 8, b"99999999", b"7777777\0", struct.pack("<Q", 2**31 - 1), bytes(8)))
        damaged[at : at + 8] = draw.choice((
            number, bytes([draw.randrange(256)]) + damaged[at + 1 : at + 8], b"", 3 * damaged[at : at + 30],
        ))  # fmt: skip
        if draw.random() < 0.1:
            del damaged[at:]
    return bytes(damaged)


@pytest.mark.parametrize("seed", range(2))
def test_a_damaged_copy_is_read_or_refused_in_a_sentence(
    seed: int, images: Split, one_of_each: tuple[Split, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = class_folders.original_positions()
    monkeypatch.setattr(class_folders, "original_positions", lambda: table)  # once is enough
    draw = random.Random(seed)
    copies = (pickled(images), pickled(images, protocol=4), sheets(images), class_files(one_of_each))
    sentences = []
    for _ in range(150):
        files = dict(draw.choice(copies))
        if draw.random() < 0.6:
            name = draw.choice(list(files))
            files[name] = damage(files[name], draw)
            content = draw.choice((tarred, zipped))(files)
        else:
            content = damage(draw.choice((tarred, zipped))(files), draw)
            content = draw.choice((bytes, gzip.compress))(content)
        (tmp_path / "copy").write_bytes(content)
        began = time.monotonic()
        try:
            decode_path(tmp_path / "copy")
        except WorldError as error:
            sentences.append(str(error))
        assert time.monotonic() - began < 5
    assert all(sentence.isprintable() and len(sentence) < 600 for sentence in sentences)
    assert len(sentences) > 75
