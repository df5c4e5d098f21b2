"""The demo's server: a page on this machine, that contacts nobody and reads only what is uploaded to it."""

import errno
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from cifar.data.cifar10 import load, open_dataset
from cifar.data.split import CLASSES
from cifar.errors import InputError, WorldError
from cifar.serving.answers import Shown
from cifar.serving.limits import MOST_BYTES, SESSIONS
from cifar.serving.wall import wall

PORTS = range(7860, 7960)  # the first free one is taken where none is named


@contextmanager
def open_demo(shown: Sequence[Shown], *, host: str, port: int) -> Iterator[str]:
    """Serve the page of one run or two, in a thread, until the context is left.

    Variables of the environment that Gradio would heed are removed from this process: they could publish the page or
    more files.

    Args:
        shown: the runs.
        host: the address or name to listen on; 127.0.0.1 is this machine alone.
        port: 0 is the first free one from 7860 on.

    Yields:
        the page's address, once it answers.

    Raises:
        InputError: no such host here.
        WorldError: the port is taken, or the package gradio absent.
    """
    check_gradio()
    ports = [port] if port else PORTS
    free_port(host, ports)  # a bad host or port is told before the seconds that the imports take
    with tempfile.TemporaryDirectory(prefix="cifar-demo-") as name:
        folder = Path(name).resolve()
        uploads, examples = folder / "uploads", folder / "examples"
        set_environment(uploads=uploads)
        page, address = launch(shown, host=host, ports=ports, uploads=uploads, examples=examples)
        try:
            yield address
        finally:
            page.close(verbose=False)


def launch(
    shown: Sequence[Shown], *, host: str, ports: Sequence[int], uploads: Path, examples: Path
) -> tuple[Any, str]:
    """The page, served at the first free port, and its address."""
    import gradio
    from starlette.middleware import Middleware

    from cifar.serving.page import CSS, build_page

    files = save_examples(examples)
    gradio.set_static_paths([examples])
    folders = (uploads, examples)
    while True:
        port = free_port(host, ports)
        address = f"http://{shown_host(host)}:{port}/"
        page = build_page(shown, examples=files, folders=folders, address=address)
        try:
            page.launch(
                server_name=f"[{host}]" if ":" in host else host, server_port=port, prevent_thread_lock=True,
                quiet=True, inline=False, inbrowser=False, share=False, footer_links=[], run_history=False,
                enable_monitoring=False, ssr_mode=False, pwa=False, mcp_server=False, max_threads=4,
                max_file_size=MOST_BYTES, css=CSS, state_session_capacity=SESSIONS,
                app_kwargs={"middleware": [Middleware(wall, folders=folders, most_bytes=MOST_BYTES)]},
            )  # fmt: skip
            return page, address
        except OSError:  # another program has taken the port since
            page.close(verbose=False)
            ports = [other for other in ports if other > port]


def check_gradio() -> None:
    """Raise WorldError with the command that installs it where gradio is absent."""
    if find_spec("gradio") is None:
        raise WorldError('the package gradio is absent: pip install "cifar[demo]"')


def set_environment(*, uploads: Path) -> None:
    """What Gradio and its libraries read from the environment, before they are imported."""
    for variable in [variable for variable in os.environ if variable.startswith("GRADIO_")]:
        del os.environ[variable]
    os.environ |= {
        "GRADIO_TEMP_DIR": str(uploads),
        "GRADIO_EXAMPLES_CACHE": str(uploads),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "no_proxy": "*",  # this process talks to itself alone, to see whether it answers
    }


def save_examples(folder: Path) -> list[Path]:
    """The first training image of each class in the bundled sample, as PNG files of its name."""
    folder.mkdir()
    train = load(open_dataset("sample"), "train")
    labels = train.labels.tolist()
    paths = [folder / f"{name}.png" for name in CLASSES]
    for label, path in enumerate(paths):
        image = train.images[labels.index(label)]
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)  # [32, 32, 3]
    return paths


def free_port(host: str, ports: Sequence[int]) -> int:
    """The first port of these that nobody listens on.

    Raises:
        InputError: the host is none of this machine's addresses.
        WorldError: all are taken, or not allowed to this user.
    """
    try:
        family, *_, sockaddr = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise InputError(f"There is no host {host!r}: give an address of this machine, such as 127.0.0.1.") from None
    for port in ports:
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            if os.name == "posix":  # else a port that was in use a minute ago counts as taken
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((sockaddr[0], port, *sockaddr[2:]))
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    raise InputError(f"{host} is no address of this machine: give one, such as 127.0.0.1.") from None
                if error.errno == errno.EACCES:
                    raise WorldError(f"Port {port} may not be used by you: choose one above 1023.") from None
                continue
        return port
    which = f"Port {ports[0]} is" if len(ports) == 1 else "All ports that were tried are"
    raise WorldError(f"{which} taken: choose another with --port.")


def shown_host(host: str) -> str:
    """A host as it stands in an address; all of this machine's are reached as localhost from itself."""
    if host in ("0.0.0.0", "::"):
        return "localhost"
    return f"[{host}]" if ":" in host else host
