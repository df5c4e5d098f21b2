"""Bytes to images: official archives, the mirror's PNG sheets, class folders. Nothing is unpacked to the disk.

Every decoder returns both splits in the original order; the caller's checksum says whether they are CIFAR-10.
"""

import hashlib
import io
import json
import pickle
import tarfile
import zlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cifar.data.split import CLASSES, NUM_TRAIN, Split
from cifar.errors import WorldError

BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
FINGERPRINTS = Path(__file__).parent / "fingerprints.bin"
FINGERPRINT_BYTES = 6
IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm"}
REMEDY = "download it again, or let `cifar data` fetch CIFAR-10"

Splits = tuple[Split, Split]  # train, test


def decode_path(path: Path) -> Splits:
    """The images in a user's own copy of CIFAR-10.

    Args:
        path: an official archive or the mirror's package, packed or unpacked; or a folder of class folders.

    Returns:
        train, test; not yet verified.

    Raises:
        WorldError: names the file or member that is damaged, unsafe, missing, or not an image of CIFAR-10.
    """
    if path.is_dir() and (folder := class_folders(path)):
        return decode_class_folders(folder)
    files = read_folder(path) if path.is_dir() else read_archive(path)
    stems = (*BATCHES, "test_batch")
    for names, decode in (
        (stems, decode_python),
        (tuple(f"{stem}.bin" for stem in stems), decode_binary),
        ((*(f"{stem}.png" for stem in stems), "train_lables.json", "test_lables.json"), decode_sheets),
    ):
        missing = [name for name in names if name not in files]
        if len(missing) < len(names) - 1:  # two of its files are there: it is this format
            if missing:
                raise WorldError(f"{path} lacks {', '.join(missing)}: {REMEDY}.")
            return decode(files, path)
    raise WorldError(
        f"{path} holds neither CIFAR-10's official files nor class folders train/airplane, test/airplane …: {REMEDY}."
    )


def is_wanted(name: str) -> bool:
    """Whether some decoder reads a file of this name."""
    stem = name.partition(".")[0]
    return (stem in BATCHES or stem == "test_batch" or stem.endswith("_lables")) and len(name) < 30


def read_folder(path: Path) -> dict[str, bytes]:
    """The wanted files in a folder, or in a folder directly inside it (as unpacking leaves one), by name."""
    folders = [path, *sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.is_symlink())]
    for folder in folders:
        wanted = [entry for entry in folder.iterdir() if entry.is_file() and is_wanted(entry.name)]
        if wanted:
            return {entry.name: entry.read_bytes() for entry in wanted}
    return {}


def read_archive(path: Path) -> dict[str, bytes]:
    """The wanted members of a tar archive, by file name; read in memory, nothing is extracted.

    Raises:
        WorldError: the archive is damaged or truncated, or a member's path would leave the folder.
    """
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts or "\\" in member.name or member.islnk() or member.issym():
                    raise WorldError(
                        f"{path}: its member {member.name!r} would leave the folder and is refused: {REMEDY}."
                    )
                if member.isfile() and is_wanted(name.name) and member.size < 64 * 2**20:
                    content = archive.extractfile(member)
                    assert content is not None, member.name
                    files[name.name] = content.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(":")  # tarfile lists what it tried
        raise WorldError(f"{path} is damaged or truncated ({reason}): {REMEDY}.") from None
    return files


class PlainUnpickler(pickle.Unpickler):
    """Unpickles the dictionaries of CIFAR-10's python files, and refuses to look up anything else."""

    ALLOWED = frozenset({
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),  # how Python 3 writes bytes in old protocols
    })  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR-10 file does")
        if module == "numpy.core.multiarray":  # the name in old pickles; numpy warns of it
            module = "numpy._core.multiarray"
        return super().find_class(module, name)


def decode_python(files: dict[str, bytes], path: Path) -> Splits:
    """The official python version: pickled dictionaries with b"data" uint8 [n, 3072] and b"labels"."""

    def decode(name: str) -> Split:
        try:
            batch = PlainUnpickler(io.BytesIO(files[name]), encoding="bytes").load()
            data = np.asarray(batch[b"data"])
            labels = np.asarray(batch[b"labels"], dtype=np.int64)
            assert data.dtype == np.uint8 and data.shape == (len(labels), 3072), data.shape  # noqa: PT018
        except Exception as error:  # a damaged pickle can raise anything
            raise WorldError(f"{path}: {name} cannot be read ({error}): {REMEDY}.") from None
        return Split(torch.tensor(data).view(-1, 3, 32, 32), torch.tensor(labels))

    return join(decode(name) for name in BATCHES), decode("test_batch")


def decode_binary(files: dict[str, bytes], path: Path) -> Splits:
    """The official binary version: records of one label byte and 3072 pixel bytes, channel by channel."""

    def decode(name: str) -> Split:
        content = files[f"{name}.bin"]
        if not content or len(content) % 3073:
            raise WorldError(f"{path}: {name}.bin has {len(content):,} bytes, not a whole number of images: {REMEDY}.")
        records = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(-1, 3073)
        return Split(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].long())

    return join(decode(name) for name in BATCHES), decode("test_batch")


def decode_sheets(files: dict[str, bytes], path: Path) -> Splits:
    """The npm mirror: PNG sheets whose rows of 1,024 pixels are one image each, and labels as JSON lists."""

    def images(name: str) -> Tensor:
        try:
            with Image.open(io.BytesIO(files[name]), formats=["PNG"]) as sheet:
                if sheet.width != 1024 or sheet.height > 10_000:
                    raise ValueError(f"it is {sheet.width}×{sheet.height} pixels instead of 1024×10000")
                pixels = np.array(sheet.convert("RGB"))  # [n, 1024, 3]
        except (OSError, ValueError, SyntaxError) as error:
            raise WorldError(f"{path}: {name} cannot be read ({error}): {REMEDY}.") from None
        return torch.from_numpy(pixels).view(-1, 32, 32, 3).permute(0, 3, 1, 2)

    def labels(name: str) -> Tensor:
        try:
            return torch.tensor(json.loads(files[name]), dtype=torch.int64)
        except (ValueError, TypeError) as error:
            raise WorldError(f"{path}: {name} cannot be read ({error}): {REMEDY}.") from None

    train = Split(torch.cat([images(f"{name}.png") for name in BATCHES]), labels("train_lables.json"))
    return train, Split(images("test_batch.png").contiguous(), labels("test_lables.json"))


def join(splits: Iterable[Split]) -> Split:
    """The splits concatenated."""
    splits = list(splits)
    return Split(torch.cat([split.images for split in splits]), torch.cat([split.labels for split in splits]))


def class_folders(path: Path) -> Path | None:
    """The folder that holds train/CLASS and test/CLASS: this one or one directly inside it; None if there is none."""
    for folder in (path, *sorted(entry for entry in path.iterdir() if entry.is_dir())):
        if all((folder / split / CLASSES[0]).is_dir() for split in ("train", "test")):
            return folder
    return None


def decode_class_folders(folder: Path) -> Splits:
    """Images in train/CLASS and test/CLASS under any file names; the table of fingerprints gives their original order.

    Raises:
        WorldError: a class is missing, or a file is not an image of CIFAR-10 (a JPEG copy is not).
    """
    positions = original_positions()
    splits = []
    for name, valid in (("train", range(NUM_TRAIN)), ("test", range(NUM_TRAIN, len(positions) + 1))):
        members = decode_split_folder(folder / name, positions)
        if strays := [file for position, file, _, _ in members if position not in valid]:
            raise WorldError(f"{strays[0]} is in {name}, but is an image of the other split: {REMEDY}.")
        images = torch.stack([image for _, _, image, _ in members])
        splits.append(Split(images, torch.tensor([label for *_, label in members])))
    return splits[0], splits[1]


def decode_split_folder(folder: Path, positions: dict[bytes, list[int]]) -> list[tuple[int, Path, Tensor, int]]:
    """Position in the original order, file, image uint8 [3, 32, 32] and label of each image of a split, sorted."""
    members = []
    unused = {key: list(indices) for key, indices in positions.items()}
    for label, name in enumerate(CLASSES):
        if not (folder / name).is_dir():
            raise WorldError(f"{folder} has no folder {name}: {REMEDY}.")
        for file in sorted(entry for entry in (folder / name).iterdir() if entry.suffix.lower() in IMAGE_ENDINGS):
            try:
                with Image.open(file) as picture:
                    pixels = np.array(picture.convert("RGB"))
            except (OSError, ValueError, SyntaxError) as error:
                raise WorldError(f"{file} cannot be read ({error}): {REMEDY}.") from None
            image = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
            key = fingerprint(image, label) if image.shape == (3, 32, 32) else b""
            if not unused.get(key):
                raise WorldError(
                    f"{file} differs from every image of CIFAR-10 of its class (as JPEG copies do): {REMEDY}."
                )
            members.append((unused[key].pop(0), file, image, label))
    if not members:
        raise WorldError(f"{folder} holds no images: {REMEDY}.")
    return sorted(members, key=lambda member: member[0])


def fingerprint(image: Tensor, label: int) -> bytes:
    """A short digest of an image, uint8 [3, 32, 32], and its label, 0 to 255; those of CIFAR-10 are all different."""
    content = bytes([label]) + image.contiguous().numpy().tobytes()
    return hashlib.blake2b(content, digest_size=FINGERPRINT_BYTES).digest()


def original_positions() -> dict[bytes, list[int]]:
    """Positions of the images with each fingerprint: 0 … 49,999 in train, 50,000 … 59,999 in test."""
    table = FINGERPRINTS.read_bytes()
    positions: dict[bytes, list[int]] = defaultdict(list)
    for position in range(len(table) // FINGERPRINT_BYTES):
        start = position * FINGERPRINT_BYTES
        positions[table[start : start + FINGERPRINT_BYTES]].append(position)
    return dict(positions)
