"""The data: found or fetched, verified, decoded, cut, and handed out in batches."""

from pathlib import Path

from cifar.errors import InputError


def data_path(data: str) -> Path:
    """The file or folder that a person names as their copy of CIFAR-10.

    Raises:
        InputError: there is none, it cannot be reached, or it is a device, pipe or socket.
    """
    try:
        path = Path(data).expanduser()
        path.stat()
        if path.is_file() or path.is_dir():
            return path
        reason = "is a device, pipe or socket"
    except FileNotFoundError:
        raise InputError(
            f"There is no file or folder {in_words(path)}: name CIFAR-10's archive or folder, or `sample`."
        ) from None
    except (OSError, RuntimeError, ValueError) as error:  # the latter two of an unknown home, of a name with a zero
        reason = f"cannot be opened ({getattr(error, 'strerror', None) or error})"
    raise InputError(f"{in_words(data)} {reason}: name CIFAR-10's archive or folder, or `sample`.")


def in_words(path: object) -> str:
    """A name as any terminal, page and picture can show it: what is not printable, or not UTF-8, is escaped."""
    text = str(path)
    return text if text.isprintable() else text.encode("unicode_escape").decode()
