"""Bytes to images: official archives, the mirror's sheets, folders of class folders. Nothing is unpacked to the disk.

Every decoder gives the two splits in the original order; whether they are CIFAR-10 is for a checksum to say.
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
REMEDY = "fetch it again, or let `cifar data` fetch CIFAR-10 itself"

Splits = tuple[Split, Split]  # train, test


def decode_path(path: Path) -> Splits:
    """The images in what a person has: an official archive, packed or unpacked, the mirror's package, or class folders.

    Raises:
        WorldError: names the file or member that is damaged, unsafe, missing, or no image of CIFAR-10.
    """
    if path.is_dir() and (folder := class_folders(path)):
        return decode_class_folders(folder)
    files = read_folder(path) if path.is_dir() else read_archive(path)
    every = (*BATCHES, "test_batch")
    for names, decode in (
        (every, decode_python),
        (tuple(f"{name}.bin" for name in every), decode_binary),
        ((*(f"{name}.png" for name in every), "train_lables.json", "test_lables.json"), decode_sheets),
    ):
        found = [name for name in names if name in files]
        if len(found) > 1:
            if len(found) < len(names):
                missing = ", ".join(name for name in names if name not in files)
                raise WorldError(f"{path} lacks {missing}: {REMEDY}.")
            return decode(files, path)
    raise WorldError(
        f"{path} holds neither CIFAR-10's official files nor class folders train/airplane, test/airplane …: {REMEDY}."
    )


def is_wanted(name: str) -> bool:
    """Whether a file of that name is one that some decoder reads."""
    stem = name.partition(".")[0]
    return (stem in BATCHES or stem == "test_batch" or stem.endswith("_lables")) and len(name) < 30


def read_folder(path: Path) -> dict[str, bytes]:
    """The wanted files in a folder, or in the folder that unpacking an archive leaves inside it, by name."""
    folders = [path, *sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.is_symlink())]
    for folder in folders:
        found = {entry.name: entry for entry in folder.iterdir() if entry.is_file() and is_wanted(entry.name)}
        if found:
            return {name: entry.read_bytes() for name, entry in found.items()}
    return {}


def read_archive(path: Path) -> dict[str, bytes]:
    """The wanted members of a tar archive, by their last name; read in memory, nothing is extracted.

    Raises:
        WorldError: it is no whole archive, or a member's name would leave the folder.
    """
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts or "\\" in member.name or member.islnk() or member.issym():
                    raise WorldError(
                        f"{path}: its member {member.name!r} would leave the folder, so it is refused: {REMEDY}."
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
    """Unpickles what CIFAR-10's python files hold, and refuses to look up anything else."""

    ALLOWED = frozenset({
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),  # how Python 3 writes bytes in the old protocols
    })  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR-10 file does")
        if module == "numpy.core.multiarray":  # where old pickles look; the new place, without a warning
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
        except Exception as error:  # a damaged pickle fails in every way there is
            raise WorldError(f"{path}: {name} cannot be read ({error}): {REMEDY}.") from None
        return Split(torch.tensor(data).view(-1, 3, 32, 32), torch.tensor(labels))

    return join(decode(name) for name in BATCHES), decode("test_batch")


def decode_binary(files: dict[str, bytes], path: Path) -> Splits:
    """The official binary version: records of one byte of label and 3072 of pixels, channel by channel."""

    def decode(name: str) -> Split:
        content = files[f"{name}.bin"]
        if not content or len(content) % 3073:
            raise WorldError(f"{path}: {name}.bin has {len(content):,} bytes, no whole number of images: {REMEDY}.")
        records = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(-1, 3073)
        return Split(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].long())

    return join(decode(name) for name in BATCHES), decode("test_batch")


def decode_sheets(files: dict[str, bytes], path: Path) -> Splits:
    """The npm mirror: PNG sheets, each row of 1,024 pixels one image, and the labels as JSON lists."""

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
    """One split after the other."""
    parts = list(splits)
    return Split(torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]))


def class_folders(path: Path) -> Path | None:
    """The folder that holds train/CLASS and test/CLASS: this one or one inside it; None if there is none."""
    for folder in (path, *sorted(entry for entry in path.iterdir() if entry.is_dir())):
        if all((folder / part / CLASSES[0]).is_dir() for part in ("train", "test")):
            return folder
    return None


def decode_class_folders(folder: Path) -> Splits:
    """Images in train/CLASS and test/CLASS under any names; a table of fingerprints tells their original order.

    Raises:
        WorldError: a class is missing, or a file is no image or not one of CIFAR-10's (a JPEG copy is not).
    """
    places = original_places()
    train, test = (decode_part(folder / part, places) for part in ("train", "test"))
    for part, found, least, end in (("train", train, 0, NUM_TRAIN), ("test", test, NUM_TRAIN, len(places) + 1)):
        if strays := [file for place, file, _, _ in found if not least <= place < end]:
            raise WorldError(f"{strays[0]} lies in {part}, but is an image of the other split: {REMEDY}.")
    return tuple(  # type: ignore[return-value]
        Split(torch.stack([image for _, _, image, _ in found]), torch.tensor([label for *_, label in found]))
        for found in (train, test)
    )


def decode_part(folder: Path, places: dict[bytes, list[int]]) -> list[tuple[int, Path, Tensor, int]]:
    """Place in the original order, file, image uint8 [3, 32, 32] and label of every image of a split, sorted."""
    found = []
    left = {key: list(numbers) for key, numbers in places.items()}
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
            if not left.get(key):
                raise WorldError(
                    f"{file} differs from every image of CIFAR-10 of its class (as JPEG copies do): {REMEDY}."
                )
            found.append((left[key].pop(0), file, image, label))
    if not found:
        raise WorldError(f"{folder} holds no images: {REMEDY}.")
    return sorted(found, key=lambda one: one[0])


def fingerprint(image: Tensor, label: int) -> bytes:
    """A short digest of an image uint8 [3, 32, 32] and its label; no two of CIFAR-10's differ and share one."""
    content = bytes([label]) + image.contiguous().numpy().tobytes()
    return hashlib.blake2b(content, digest_size=FINGERPRINT_BYTES).digest()


def original_places() -> dict[bytes, list[int]]:
    """Where the images of each fingerprint stand: 0 … 49,999 in train, 50,000 … 59,999 in test; twins share one."""
    table = FINGERPRINTS.read_bytes()
    places: dict[bytes, list[int]] = defaultdict(list)
    for place in range(len(table) // FINGERPRINT_BYTES):
        places[table[place * FINGERPRINT_BYTES : (place + 1) * FINGERPRINT_BYTES]].append(place)
    return dict(places)
