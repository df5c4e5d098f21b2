"""The data: found or fetched, verified, decoded, cut, and handed out in batches."""

from pathlib import Path

from cifar.errors import InputError


def data_path(data: str) -> Path:
    """The file or folder that a person names as their copy of CIFAR-10.

    Raises:
        InputError: there is none.
    """
    path = Path(data).expanduser()
    if not path.exists():
        raise InputError(f"There is no file or folder {path}: name CIFAR-10's archive or folder, or `sample`.")
    return path
