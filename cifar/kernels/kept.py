"""Libraries that were compiled before, kept in the cache folder; only what is whole and this user's own is loaded.

A library is named by all that it depends on, the CPU included, since a cache may be shared by machines; then by its own
checksum, so that one that was not written whole, or has changed since, is never loaded.
"""

import functools
import hashlib
import os
import platform
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

from cifar.files import cache_folder, write_bytes


def kept_name(sources: Sequence[Path], arguments: Sequence[str]) -> Path | None:
    """How the file of a library begins, by all that it depends on; None where nothing can be kept.

    Args:
        sources: the file that is compiled, and those that it includes.
        arguments: the command that compiles it, without its files.
    """
    digest = hashlib.sha256()
    for part in (*(source.read_bytes() for source in sources), *map(os.fsencode, arguments)):
        digest.update(len(part).to_bytes(8, "big") + part)
    digest.update(repr([*filter(None, map(file_identity, arguments)), cpu_identity()]).encode())
    try:
        folder = cache_folder() / "kernels"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not is_own(folder):
            return None
        folder.chmod(0o700)
    except (OSError, RuntimeError):  # the latter where there is no home
        return None
    return folder / f"{sources[0].stem}-{digest.hexdigest()[:32]}"


def file_identity(name: str) -> tuple[str, int, int] | None:
    """Path, bytes and time of a program on the PATH: another version has others; None where there is none."""
    found = shutil.which(name)
    if found is None:
        return None
    path = Path(found).resolve()
    state = path.stat()
    return str(path), state.st_size, state.st_mtime_ns


@functools.cache
def cpu_identity() -> tuple[str, ...]:
    """What "native" depends on: the machine's kind and, on Linux, the CPU's model and instructions."""
    fields = ("vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU part", "Features")
    try:
        first = Path("/proc/cpuinfo").read_text(errors="replace").partition("\n\n")[0]
    except OSError:
        first = ""
    return platform.machine(), *(line for line in first.splitlines() if line.partition(":")[0].strip() in fields)


def find_kept(name: Path) -> list[Path]:
    """The libraries whose names begin so, that are whole and that no other user can have written."""
    paths = sorted(name.parent.glob(f"{name.name}-*.so"))
    return [path for path in paths if is_trusted(path) and path.name == f"{name.name}-{checksum(path)}.so"]


def checksum(path: Path) -> str:
    """Of a file's content; "" where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    except OSError:
        return ""


def keep(path: Path, name: Path) -> Path:
    """Copy a library to where it is kept, whole.

    Raises:
        OSError: there is no room, or what stands there cannot be trusted.
    """
    kept = name.with_name(f"{name.name}-{checksum(path)}.so")
    write_bytes(kept, path.read_bytes())
    if not is_trusted(kept):
        raise OSError(f"{kept} can be written by others")
    return kept


def is_trusted(path: Path) -> bool:
    """Whether there is a file that this user alone can have written, in a folder of which the same holds."""
    try:
        return path.is_file() and is_own(path) and is_own(path.parent)
    except OSError:
        return False


def is_own(path: Path) -> bool:
    """Whether this is no link, belongs to this user, and no other may write it; always, where users have no numbers."""
    if not hasattr(os, "getuid"):
        return True
    state = path.lstat()
    return not stat.S_ISLNK(state.st_mode) and state.st_uid == os.getuid() and not state.st_mode & 0o022
