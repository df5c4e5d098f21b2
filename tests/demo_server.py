"""`cifar demo` in a process of its own, which writes down what it opens, starts and connects to."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
EVENTS = ("open", "socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.posix_spawn")
PROGRAM = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background jobs of a script: it has to end all the same
log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
def watch(event, arguments):
    if event in {EVENTS!r}:
        os.write(log, (event + " " + repr(arguments).replace("\\n", " ") + "\\n").encode())
sys.addaudithook(watch)
del sys.argv[1]
from cifar.cli import main
main()
"""


@dataclass(frozen=True)
class Server:
    """A demo that answers at `address`; `temporary` is its folder of temporary files."""

    address: str
    log: Path
    temporary: Path

    def events(self, *names: str) -> list[str]:
        """What it did of these kinds, a line each."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if line.partition(" ")[0] in names]


@contextmanager
def running_demo(*arguments: object, seconds: float = 300) -> Iterator[Server]:
    """A demo with these arguments; at the end it gets Ctrl-C, has to leave nothing behind and exit with 0."""
    with tempfile.TemporaryDirectory() as name:
        log, temporary = Path(name, "log"), Path(name, "temporary")
        log.touch()
        temporary.mkdir()
        environment = os.environ | {
            "CIFAR_KERNELS": "pytorch",  # a compiler would be a process that is started
            "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), "GRADIO_SHARE": "true", "GRADIO_SERVER_PORT": "1",
            "GRADIO_ALLOWED_PATHS": "/", "http_proxy": "http://127.0.0.1:9",
        }  # fmt: skip
        command = [sys.executable, "-c", PROGRAM, log, "demo", *map(str, arguments)]
        with Path(name, "errors").open("w") as errors:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        watchdog = threading.Timer(seconds, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address.startswith("http://"), Path(name, "errors").read_text()
            yield Server(address, log, temporary)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 0
            errors = Path(name, "errors").read_text()
            assert errors.endswith("Ended.\n")
            assert "Traceback" not in errors, errors
            assert not list(temporary.glob("cifar-demo-*"))
        finally:
            watchdog.cancel()
            process.kill()
            process.wait()
            process.stdout.close()
