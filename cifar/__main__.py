"""Where the program starts: `cifar`, `python -m cifar` and train.py."""

import signal
import sys
from pathlib import Path
from typing import NoReturn


def main() -> NoReturn:
    """The command `cifar`."""
    end_without_traceback()
    from cifar import cli

    cli.main()


def train_main() -> NoReturn:
    """The script train.py."""
    end_without_traceback()
    from cifar import cli

    cli.train_main()


def end_without_traceback() -> None:
    """Let Ctrl-C end the process as the system does, until a command has begun and after it: imports take a while."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    # Python puts the current folder first: a timm.py in it would be imported in place of the package.
    if not sys.flags.safe_path and Path(sys.path[0]).resolve() != Path(__file__).resolve().parents[1]:
        del sys.path[0]
    main()
