"""Many image files: which files a name stands for, and their predictions, a batch at a time."""

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
        name: a file, whatever it is called; a folder, for the images in it and its subfolders, recognised by suffix and
            sorted by path, without hidden ones and without following links to folders; or a pattern with *, ** and ?,
            if no file has that name.
        unreadable: gets a sentence about each subfolder that cannot be listed.

    Raises:
        InputError: there is no such file, or the folder or pattern yields none.
    """
    path = Path(name)
    if path.is_dir():
        return images_below(path, unreadable=unreadable)
    if path.exists():
        return [name]
    if not glob.has_magic(name):
        raise InputError(f"There is no file or folder {name}.")
    files = []
    for match in sorted(glob.glob(name, recursive=True)):  # noqa: PTH207  (Path.glob takes no absolute pattern)
        if not Path(match).is_dir():
            files.append(match)
        elif "**" not in name:  # ** matches the files below by itself
            files += images_below(Path(match), unreadable=unreadable)
    if not files:
        raise InputError(f"Nothing matches {name}: a pattern must match a file or folder.")
    return files


def images_below(folder: Path, *, unreadable: Callable[[str], None]) -> list[str]:
    """The images in a folder and its subfolders; arguments as of `find_images`.

    Raises:
        InputError: there are none.
    """
    suffixes = image_suffixes()

    def report(error: OSError) -> None:
        unreadable(f"{error.filename} cannot be listed: {error.strerror}.")

    paths = []
    for parent, folders, names in os.walk(folder, onerror=report):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [
            Path(parent, name) for name in names if not name.startswith(".") and Path(name).suffix.lower() in suffixes
        ]
    if not paths:
        raise InputError(f"The folder {folder} holds no images (recognised by suffix).")
    return [str(path) for path in sorted(paths)]


def predict_files(
    classifier: Classifier,
    names: Sequence[str],
    *,
    views: str = "",
    calibrated: bool = True,
    batch_size: int = 100,
    unreadable: Callable[[str], None],
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[list[str], Predictions]:
    """Predict the classes of image files, of which at most a batch is in memory at a time.

    Args:
        classifier: of `load_model`.
        names: paths of any number of files.
        views, calibrated, batch_size: as in `Classifier.predict`.
        unreadable: gets a sentence about each file that cannot be read, which is left out.
        progress: gets files done and files in total, after each file.

    Returns:
        the names of the files that were read, in the given order, and their predictions.
    """
    read, probs, temperature = [], [torch.empty(0, 10)], 1.0
    for start in range(0, len(names), batch_size):
        images = []
        for number, name in enumerate(names[start : start + batch_size], start + 1):
            try:
                images.append(read_image(name))
                read.append(name)
            except (InputError, WorldError) as error:
                unreadable(str(error))
            progress(number, len(names))
        predictions = classifier.predict(images, views=views, calibrated=calibrated, batch_size=batch_size)
        probs.append(predictions.probs)
        temperature = predictions.temperature
    return read, Predictions(torch.cat(probs), temperature=temperature)
