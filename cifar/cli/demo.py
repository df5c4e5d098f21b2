"""`cifar demo`: a page to try a trained network on one's own images."""

import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from cifar import show
from cifar.cli.app import Device, app
from cifar.errors import InputError


@app.command()
def demo(
    runs: Annotated[list[Path], typer.Argument(help="A run's folder; or two, to see them side by side.")],
    host: Annotated[
        str, typer.Option("--host", help="The address to listen on: 0.0.0.0 lets the whole network in.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="Default the first free one from 7860 on.")
    ] = None,
    device: Device = "",
) -> None:
    """A page in the browser: drop, paste, choose or photograph an image and see what one run, or two, make of it.

    It sends nothing anywhere and reads nothing but what is uploaded to it. Ctrl-C ends it, with exit code 0.
    """
    from cifar.serving.answers import read_shown
    from cifar.serving.demo import check_gradio, open_demo

    if len(runs) > 2:
        raise InputError(f"The page has room for two runs side by side: {len(runs)} were named.")
    check_gradio()
    shown = read_shown(runs, device=device)
    for one in shown:
        if one.warning:
            show.say(one.warning)
    with open_demo(shown, host=host, port=port or 0) as address:
        show.result_text(address)
        show.say("Ctrl-C ends it.")
        wait()


def wait() -> None:
    """Return at Ctrl-C, or when the system asks the program to end."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a script's background jobs start with the first one ignored
        signal.signal(number, signal.default_int_handler)
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        show.say("Ended.")
