"""Bytes to images: official archives, the mirror's PNG sheets, class folders. Nothing is unpacked to the disk.

Every decoder returns both splits in the original order; the caller's checksum says whether they are CIFAR-10.
"""

import io
import json
import warnings
from collections.abc import Iterable
from pathlib import Path, PurePath, PurePosixPath

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cifar.data import in_words
from cifar.data.archives import MAX_MEMBER_BYTES, read_archive
from cifar.data.class_folders import decode_class_folders, is_class_image
from cifar.data.pickles import read_batch
from cifar.data.reading import REMEDY, is_folder, list_folder, read_limited
from cifar.data.split import CLASSES, Split
from cifar.errors import WorldError

BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
STEMS = (*BATCHES, "test_batch")
BINARY_FILES = tuple(f"{stem}.bin" for stem in STEMS)
SHEET_FILES = (*(f"{stem}.png" for stem in STEMS), "train_lables.json", "test_lables.json")
OFFICIAL = frozenset({*STEMS, *BINARY_FILES, *SHEET_FILES})
ARCHIVES = ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz")  # as torchvision leaves one in its root
MAX_LABELS_BYTES = 2**20

Splits = tuple[Split, Split]  # train, test


def decode_path(path: Path) -> Splits:
    """The images in a user's own copy of CIFAR-10.

    Args:
        path: an official archive or the mirror's package, as tar or zip, or unpacked; class folders, in a folder or an
            archive; or a folder with an official archive.

    Returns:
        train, test; not yet verified.

    Raises:
        WorldError: names the file or member that is damaged, unsafe, missing, or not an image of CIFAR-10.
    """
    files = source_files(path)
    contents: Iterable[tuple[PurePath, bytes]]
    if is_archive(path, files):
        contents = [(files[0] / name, content) for name, content in read_archive(files[0], is_wanted)]
        names = {name.name for name, _ in contents}
    else:
        contents = ((file, read_limited(file, MAX_MEMBER_BYTES)) for file in files)  # one at a time, once
        names = {file.name for file in files}
    if names and OFFICIAL.isdisjoint(names):
        return decode_class_folders(contents, path)
    for expected, decode in ((STEMS, decode_python), (BINARY_FILES, decode_binary), (SHEET_FILES, decode_sheets)):
        missing = [name for name in expected if name not in names]
        if len(missing) < len(expected) - 1:  # two of its files are there: it is this format
            if missing:
                raise WorldError(f"{in_words(path)} lacks {', '.join(missing)}: {REMEDY}.")
            return decode({name.name: content for name, content in contents if name.name in expected}, path)
    raise WorldError(
        f"{in_words(path)} holds neither CIFAR-10's official files nor class folders train/airplane, test/airplane …: "
        f"{REMEDY}."
    )


def is_wanted(name: PurePosixPath) -> bool:
    """Whether some decoder reads an archive's member of this path; dot files, such as macOS leaves, are left out."""
    if any(part.startswith(".") and part != "." for part in name.parts):
        return False
    return name.name in OFFICIAL or is_class_image(name)


def source_files(path: Path) -> list[Path]:
    """The files that a user's own copy of CIFAR-10 consists of, sorted by folder; they decide what is decoded.

    Args:
        path: an archive, which is the only one; or a folder, whose files are in it or in a folder directly inside it,
            as unpacking leaves one. Class folders come first, then official files, then an official archive.

    Raises:
        WorldError: a folder cannot be listed.
    """
    if not path.is_dir():
        return [path]
    files, folders = list_folder(path)
    for folder in (path, *folders):
        classes = [folder / split / name for split in ("train", "test") for name in CLASSES]
        if all(map(is_folder, (classes[0], classes[len(CLASSES)]))):
            images = (file for images in filter(is_folder, classes) for file in list_folder(images)[0])
            return [image for image in images if is_class_image(image)]
    unlisted = None
    for folder in (path, *folders):
        try:
            official = [file for file in list_folder(folder)[0] if file.name in OFFICIAL]
        except WorldError as error:  # which matters only if the data are nowhere else
            unlisted = unlisted or error
            continue
        if official:
            return official
    if unlisted and not any(file.name in ARCHIVES for file in files):
        raise unlisted
    return [file for file in files if file.name in ARCHIVES][:1]


def is_archive(path: Path, files: list[Path]) -> bool:
    """Whether the files of a person's copy, as of `source_files`, are one archive."""
    return bool(files) and (files[0] == path or files[0].name in ARCHIVES)


def decode_python(files: dict[str, bytes], path: Path) -> Splits:
    """The official python version: pickled dictionaries with b"data" uint8 [n, 3072] and b"labels"."""

    def decode(name: str) -> Split:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of pickletools, on odd names
                pixels, labels = read_batch(files[name])
        except ValueError as error:
            raise damaged(path, name, error) from None
        return Split(torch.tensor(pixels).view(-1, 3, 32, 32), torch.tensor(labels))

    return join(decode(name) for name in BATCHES), decode("test_batch")


def decode_binary(files: dict[str, bytes], path: Path) -> Splits:
    """The official binary version: records of one label byte and 3072 pixel bytes, channel by channel."""

    def decode(name: str) -> Split:
        content = files[f"{name}.bin"]
        if not content or len(content) % 3073:
            raise WorldError(
                f"{in_words(path)}: {name}.bin has {len(content):,} bytes, not a whole number of images: {REMEDY}."
            )
        records = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(-1, 3073)
        return Split(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].long())

    return join(decode(name) for name in BATCHES), decode("test_batch")


def decode_sheets(files: dict[str, bytes], path: Path) -> Splits:
    """The npm mirror: PNG sheets whose rows of 1,024 pixels are one image each, and labels as JSON lists."""

    def images(name: str) -> Tensor:
        try:
            return torch.from_numpy(read_sheet(files[name])).view(-1, 32, 32, 3).permute(0, 3, 1, 2)
        except Exception as error:  # Pillow raises all kinds of errors of a damaged PNG
            raise damaged(path, name, error) from None

    def labels(name: str, count: int) -> Tensor:
        try:
            return torch.tensor(read_labels(files[name], count), dtype=torch.int64)
        except (ValueError, RecursionError) as error:
            raise damaged(path, name, error) from None

    train, test = torch.cat([images(f"{name}.png") for name in BATCHES]), images("test_batch.png").contiguous()
    return Split(train, labels("train_lables.json", len(train))), Split(test, labels("test_lables.json", len(test)))


def read_sheet(content: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The pixels of a PNG sheet, uint8 [n, 1024, 3]; its size is looked at before they are decoded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as of a bomb, which its size refuses
        with Image.open(io.BytesIO(content), formats=["PNG"]) as sheet:
            if sheet.width != 1024 or sheet.height > 10_000:
                raise ValueError(f"it is {sheet.width}×{sheet.height} pixels instead of 1024×10000")
            return np.array(sheet.convert("RGB"))


def read_labels(content: bytes, count: int) -> list[int]:
    """The labels in a JSON list, which has to have so many.

    Raises:
        ValueError, RecursionError: it is something else.
    """
    labels = json.loads(content) if len(content) <= MAX_LABELS_BYTES else None
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < 10 for label in labels):
        raise ValueError("it is no list of numbers from 0 to 9")
    if len(labels) != count:
        raise ValueError(f"it has {len(labels):,} labels for {count:,} images")
    return labels


def damaged(path: Path, name: str, error: Exception) -> WorldError:
    """The error for a file that cannot be decoded."""
    reason = str(error).partition("\n")[0].rstrip(".")[:150] or type(error).__name__
    return WorldError(f"{in_words(path)}: {name} cannot be read ({in_words(reason)}): {REMEDY}.")


def join(splits: Iterable[Split]) -> Split:
    """The splits concatenated."""
    splits = list(splits)
    return Split(torch.cat([split.images for split in splits]), torch.cat([split.labels for split in splits]))
