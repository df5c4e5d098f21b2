"""`cifar demo`: a page to try a trained network on your own images."""

import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from cifar.cli import display
from cifar.cli.app import Device, TrustCode, app
from cifar.cli.terminal import Ended, end, once
from cifar.errors import InputError


@app.command(rich_help_panel="Use")
def demo(
    runs: Annotated[list[Path], typer.Argument(help="A run's folder; or two, to see them side by side.")],
    host: Annotated[
        str, typer.Option("--host", help="The address to listen on: 0.0.0.0 lets the whole network in.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="Default the first free one from 7860 on.")
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            help="A name by which a proxy or tunnel leads to the page, NAME or NAME:PORT; under others it refuses.",
        ),
    ] = None,
    device: Device = "",
    trust_code: TrustCode = False,
) -> None:
    """Serve a page for the browser: drop, paste, choose or photograph an image and see what one run, or two, predict.

    It sends nothing anywhere and reads only what is uploaded to it. Ctrl-C ends it, with exit code 0.
    """
    from cifar.serving.answers import load_runs
    from cifar.serving.demo import check_gradio, open_demo

    if len(runs) > 2:
        raise InputError(f"The page has room for two runs side by side: you named {len(runs)}.")
    check_gradio()
    demo_runs = load_runs(runs, device=device, trust_code=trust_code)
    for run in demo_runs:
        if run.warning:
            display.say(run.warning)
    with open_demo(demo_runs, host=host, port=port or 0, names=allow_host or ()) as address:
        display.result_text(address)
        display.say("Ctrl-C ends it.")
        wait()


def wait() -> None:
    """Return at Ctrl-C, or when the system asks the program to end."""
    handler = once(end)
    for number in (signal.SIGINT, signal.SIGTERM):  # background jobs of a script start with SIGINT ignored
        signal.signal(number, handler)
    try:
        while True:
            time.sleep(3600)
    except Ended:
        display.say("Ended.")
