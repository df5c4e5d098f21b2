"""Many image files: which ones a name stands for, and their classes, a batch at a time."""

import glob
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from cifar.errors import InputError, WorldError
from cifar.serving.classifier import Classifier, Predictions
from cifar.serving.images import image_suffixes, read_image


def find_images(name: str, *, unreadable: Callable[[str], None]) -> list[str]:
    """The files that a name stands for.

    Args:
        name: a file, whatever it is called; a folder, for the images in it and below it, by suffix and in the order of
            their paths, without hidden ones and without following links to folders; or a pattern with *, ** and ?,
            where no file is called so.
        unreadable: gets a sentence on each folder below that cannot be listed.

    Raises:
        InputError: it stands for nothing.
    """
    path = Path(name)
    if path.is_dir():
        return images_below(path, unreadable=unreadable)
    if path.exists():
        return [name]
    if not glob.has_magic(name):
        raise InputError(f"There is no file or folder {name}.")
    found = []
    for match in sorted(glob.glob(name, recursive=True)):  # noqa: PTH207  (Path.glob takes no absolute pattern)
        if not Path(match).is_dir():
            found.append(match)
        elif "**" not in name:  # which matches what lies below by itself
            found += images_below(Path(match), unreadable=unreadable)
    if not found:
        raise InputError(f"Nothing matches {name}: a pattern has to match a file or folder.")
    return found


def images_below(folder: Path, *, unreadable: Callable[[str], None]) -> list[str]:
    """The images in a folder and below it, see `find_images`.

    Raises:
        InputError: there are none.
    """
    suffixes = image_suffixes()

    def report(error: OSError) -> None:
        unreadable(f"{error.filename} cannot be listed: {error.strerror}.")

    found = []
    for place, folders, names in os.walk(folder, onerror=report):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(place, name) for name in names if not name.startswith(".") and Path(name).suffix.lower() in suffixes
        ]
    if not found:
        raise InputError(f"The folder {folder} holds no images, by the suffixes of their names.")
    return [str(path) for path in sorted(found)]


def predict_files(
    classifier: Classifier,
    names: Sequence[str],
    *,
    views: str = "",
    batch_size: int = 100,
    unreadable: Callable[[str], None],
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[list[str], Predictions]:
    """The classes of image files; never more than a batch of decoded images is in memory, each of 3 KB.

    Args:
        names: paths, of any number.
        views, batch_size: as in `Classifier.predict`.
        unreadable: gets a sentence on each file that cannot be read; it is left out.
        progress: gets files done and files in all, after each file.

    Returns:
        the names of those that were read, in the given order, and their predictions.
    """
    read, parts = [], [torch.empty(0, 10)]
    for start in range(0, len(names), batch_size):
        images = []
        for number, name in enumerate(names[start : start + batch_size], start + 1):
            try:
                images.append(read_image(name))
                read.append(name)
            except (InputError, WorldError) as error:
                unreadable(str(error))
            progress(number, len(names))
        parts.append(classifier.predict(images, views=views, batch_size=batch_size).probs)
    return read, Predictions(torch.cat(parts))
