"""The demo's server: a page on this machine that contacts nobody and reads only what is uploaded to it."""

import errno
import functools
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
from cifar.machine import return_large_blocks
from cifar.serving.answers import DemoRun
from cifar.serving.intake import cleaning, guard_connections, intake
from cifar.serving.limits import MAX_BYTES, SESSIONS
from cifar.serving.wall import own_names, wall

PORTS = range(7860, 7960)  # the first free one is the default


@contextmanager
def open_demo(runs: Sequence[DemoRun], *, host: str, port: int, names: Sequence[str] = ()) -> Iterator[str]:
    """Serve the page of one run or two, in a thread, until the context is left.

    Gradio's environment variables are removed from this process: they could publish the page or more files.

    Args:
        runs: to show.
        host: the address or name to listen on; 127.0.0.1 is this machine alone.
        port: 0 is the first free one from 7860 on.
        names: by which a proxy or a tunnel leads to the page, such as "demo.example.org" or "localhost:8080".

    Yields:
        the page's address, once it responds.

    Raises:
        InputError: this machine has no such address.
        WorldError: the port is taken, or the package gradio is absent.
    """
    check_gradio()
    ports = [port] if port else PORTS
    free_port(host, ports)  # reports a bad host or port before the imports, which take seconds
    with tempfile.TemporaryDirectory(prefix="cifar-demo-") as name:
        folder = Path(name).resolve()
        uploads, examples = folder / "uploads", folder / "examples"
        set_environment(uploads=uploads)
        return_large_blocks()
        page, address = launch(runs, host=host, ports=ports, uploads=uploads, examples=examples, names=names)
        try:
            with cleaning(uploads):
                yield address
        finally:
            page.close(verbose=False)


def forget(page: Any) -> None:
    """Drop what Gradio never does: names of uploads, and sessions that have had all their answers.

    Args:
        page: Gradio's; this runs in its thread, between two steps of its coroutines.
    """
    for paths in page.temp_file_sets:
        paths.clear()
    queue = page._queue
    for session, waiting in list(queue.pending_event_ids_session.items()):
        if not waiting or session not in queue.pending_messages_per_session:
            del queue.pending_event_ids_session[session]
            queue.pending_messages_per_session.pop(session, None)


def launch(
    runs: Sequence[DemoRun],
    *,
    host: str,
    ports: Sequence[int],
    uploads: Path,
    examples: Path,
    names: Sequence[str],
) -> tuple[Any, str]:
    """Serve the page at the first free port.

    Args:
        runs, host, names: see `open_demo`.
        ports: to try, in this order.
        uploads, examples: folders for uploaded files and for the example images, resolved.

    Returns:
        Gradio's page, and its address.
    """
    import gradio
    from starlette.middleware import Middleware

    from cifar.serving.page import CSS, build_page

    files = save_examples(examples)
    gradio.set_static_paths([examples])
    folders = (uploads, examples)
    while True:
        port = free_port(host, ports)
        address = f"http://{url_host(host)}:{port}/"
        page = build_page(runs, examples=files, folders=folders, address=address)
        own = own_names(url_host(host), port, others=names)
        forget_all = functools.partial(forget, page)
        walled = functools.partial(wall, names=own, folders=folders, max_bytes=MAX_BYTES)
        try:
            page.launch(
                server_name=f"[{host}]" if ":" in host else host, server_port=port, prevent_thread_lock=True,
                quiet=True, inline=False, inbrowser=False, share=False, footer_links=[], run_history=False,
                enable_monitoring=False, ssr_mode=False, pwa=False, mcp_server=False, max_threads=4,
                max_file_size=MAX_BYTES, css=CSS, state_session_capacity=SESSIONS,
                app_kwargs={"middleware": [Middleware(walled), Middleware(intake, uploads=uploads, forget=forget_all)]},
            )  # fmt: skip
        except OSError:  # another program has taken the port in the meantime
            page.close(verbose=False)
            ports = [other for other in ports if other > port]
            continue
        config: Any = page.server.config
        guard_connections(config)
        config.loaded_app = walled(config.loaded_app)  # also before what Gradio adds in front of its own
        return page, address


def check_gradio() -> None:
    """Raise WorldError, with the command that installs it, if gradio is absent."""
    if find_spec("gradio") is None:
        raise WorldError('the package gradio is absent: pip install "cifar[demo]"')


def set_environment(*, uploads: Path) -> None:
    """Set the environment variables of Gradio and its libraries, before they are imported."""
    for variable in [variable for variable in os.environ if variable.startswith("GRADIO_")]:
        del os.environ[variable]
    os.environ |= {
        "GRADIO_TEMP_DIR": str(uploads),
        "GRADIO_EXAMPLES_CACHE": str(uploads),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_ANALYTICS_MAX_EVENTS": "100",  # that are kept all the same
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "no_proxy": "*",  # this process connects only to itself, to check that the page responds
    }


def save_examples(folder: Path) -> list[Path]:
    """Write the first training image of each class in the bundled sample into a new folder, as CLASS.png."""
    folder.mkdir()
    train = load(open_dataset("sample"), "train")
    labels = train.labels.tolist()
    paths = [folder / f"{name}.png" for name in CLASSES]
    for label, path in enumerate(paths):
        image = train.images[labels.index(label)]
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)  # [32, 32, 3]
    return paths


def free_port(host: str, ports: Sequence[int]) -> int:
    """The first port that no program listens on.

    Args:
        host: an address or name of this machine.
        ports: to try, in this order.

    Raises:
        InputError: the host is not an address of this machine.
        WorldError: all ports are taken, or one is reserved for the administrator.
    """
    try:
        family, *_, sockaddr = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise InputError(f"There is no host {host!r}: give an address of this machine, such as 127.0.0.1.") from None
    for port in ports:
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            if os.name == "posix":  # otherwise a port that was in use a minute ago counts as taken
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((sockaddr[0], port, *sockaddr[2:]))
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    raise InputError(
                        f"{host} is not an address of this machine: give one, such as 127.0.0.1."
                    ) from None
                if error.errno == errno.EACCES:
                    raise WorldError(f"You are not allowed to use port {port}: choose one above 1023.") from None
                continue
        return port
    which = f"Port {ports[0]} is" if len(ports) == 1 else "All ports tried are"
    raise WorldError(f"{which} taken: choose another with --port.")


def url_host(host: str) -> str:
    """A host as written in a URL; localhost for all addresses of this machine."""
    if host in ("0.0.0.0", "::"):
        return "localhost"
    return f"[{host}]" if ":" in host else host
