"""Files that are either all there or not there, and the folder where what can be made again is kept."""

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import IO


def cache_folder() -> Path:
    """Where decoded data, compiled kernels and the like lie: CIFAR_HOME, if set, else the platform's cache folder."""
    from platformdirs import user_cache_dir

    home = os.environ.get("CIFAR_HOME")
    return Path(home).expanduser() if home else Path(user_cache_dir("cifar"))


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file that is either all there or not there: `write` gets a temporary file, which then takes the name.

    Raises:
        OSError: as the system gives it; nothing half-written stays.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:  # unlike those of tempfile, with the permissions that the umask leaves
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes, whole."""
    write_whole(path, lambda file: file.write(data))


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, whole."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: object) -> None:
    """Write JSON, indented, whole; not-a-number is refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
