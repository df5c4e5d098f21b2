"""A PostgreSQL server of the tests' own, in a folder, by an unprivileged user. It listens on a socket in that folder:
a port that it gives up while it is restarted may be taken by any program's next connection.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

PASSWORD = "a password of tests"


def programs() -> Path | None:
    """The folder of PostgreSQL's programs, Debian's newest or those on the path; None where it is not installed."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = str(debian[-1]) if debian else shutil.which("initdb")
    return Path(found).parent if found else None


class Postgres:
    """A server; `url` leads to its database, and `stop` and `start` are what a machine does to it."""

    def __init__(self, folder: Path) -> None:
        found = programs()
        assert found, "PostgreSQL is installed"
        self._programs, self.folder = found, folder
        self.url = f"postgresql+psycopg://cifar:{quote(PASSWORD)}@/cifar?host={quote(str(folder))}"
        self._user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
        if self._user:
            shutil.chown(folder, self._user)
        (folder / "password").write_text(PASSWORD)
        (folder / "password").chmod(0o644)
        self._data = folder / "data"
        how = ("--auth", "scram-sha-256", "--no-sync", "--username", "cifar", "--pwfile", folder / "password")
        self._run("initdb", "-D", self._data, *how)
        self.start()
        self._run("createdb", "-h", folder, "-U", "cifar", "cifar")

    def _run(self, program: str, *arguments: object) -> None:
        done = subprocess.run(
            [self._programs / program, *map(str, arguments)], user=self._user, cwd="/", capture_output=True, text=True,
            env={"PGPASSWORD": PASSWORD, "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

    def start(self) -> None:
        options = f"-h '' -k {self.folder} -c fsync=off"
        self._run("pg_ctl", "-D", self._data, "-o", options, "-l", self._data / "log", "-w", "start")

    def stop(self) -> None:
        """As a machine that goes down: whoever is connected is cut off."""
        self._run("pg_ctl", "-D", self._data, "-m", "immediate", "-w", "stop")

    def restart(self, *, seconds: float) -> None:
        """Be away for so long."""
        self.stop()
        time.sleep(seconds)
        self.start()


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A new server in a folder of its own, since those of tests are closed to other users; the block's end stops it."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        server = Postgres(Path(folder))
        try:
            yield server
        finally:
            server.stop()
