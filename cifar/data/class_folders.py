"""Class folders: images in train/CLASS and test/CLASS under any file names, brought into the original order."""

import hashlib
import io
import warnings
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePath

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from cifar.data import in_words
from cifar.data.reading import REMEDY
from cifar.data.split import CLASSES, NUM_TRAIN, Split
from cifar.errors import WorldError

FINGERPRINTS = Path(__file__).parent / "fingerprints.bin"
FINGERPRINT_BYTES = 6
IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm"}
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM")  # whatever the ending: EPS would run Ghostscript

Member = tuple[int, PurePath, Tensor, int]  # position in the original order, file, image uint8 [3, 32, 32], label


def is_class_image(name: PurePath) -> bool:
    """Whether this is the path of an image in a class folder: …/train/CLASS/NAME.png."""
    return (
        name.suffix.lower() in IMAGE_ENDINGS
        and name.parts[-3:-2] in (("train",), ("test",))
        and name.parts[-2] in CLASSES
    )


def decode_class_folders(contents: Iterable[tuple[PurePath, bytes]], path: Path) -> tuple[Split, Split]:
    """The splits that images in class folders make; the table of fingerprints gives their original order.

    Args:
        contents: of the images, under paths as of `is_class_image`.
        path: of all of them, for errors.

    Raises:
        WorldError: a class has no images, or a file is not an image of CIFAR-10 (a JPEG copy is not).
    """
    positions = original_positions()
    used: set[int] = set()
    members: dict[str, list[Member]] = {"train": [], "test": []}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, on odd files; whether an image is right, its pixels say
        for file, content in contents:
            image, label = read_tile(file, content), CLASSES.index(file.parts[-2])
            found = positions.get(fingerprint(image, label), []) if image is not None else []
            position = next((position for position in found if position not in used), None)
            if image is None or position is None:
                raise WorldError(
                    f"{in_words(file)} differs from every image of CIFAR-10 of its class (as JPEG copies do), or "
                    f"repeats another: {REMEDY}."
                )
            used.add(position)
            split = file.parts[-3]
            if (split == "train") != (position < NUM_TRAIN):
                raise WorldError(f"{in_words(file)} is in {split}, but is an image of the other split: {REMEDY}.")
            members[split].append((position, file, image, label))
    return join_members(members["train"], "train", path), join_members(members["test"], "test", path)


def read_tile(file: PurePath, content: bytes) -> Tensor | None:
    """An image file as uint8 [3, 32, 32]; None, before it is decoded, if it is of another size.

    Raises:
        WorldError: it cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            if picture.size != (32, 32):
                return None
            pixels = np.array(picture.convert("RGB"))
    except Exception as error:  # each of Pillow's formats raises its own kinds
        reason = "no image" if isinstance(error, UnidentifiedImageError) else str(error).partition("\n")[0][:150]
        raise WorldError(f"{in_words(file)} cannot be read ({in_words(reason)}): {REMEDY}.") from None
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous() if pixels.shape == (32, 32, 3) else None


def join_members(members: list[Member], name: str, path: Path) -> Split:
    """The images of a split in the original order.

    Raises:
        WorldError: a class has none.
    """
    missing = sorted({*range(len(CLASSES))} - {label for *_, label in members})
    if missing:
        raise WorldError(f"{in_words(path)} has no images in {name}/{CLASSES[missing[0]]}: {REMEDY}.")
    members.sort(key=lambda member: member[0])
    return Split(torch.stack([image for _, _, image, _ in members]), torch.tensor([label for *_, label in members]))


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
