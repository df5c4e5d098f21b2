"""Verbs and flags, a file for each or for a few that belong together: the only room that prints, asks and exits."""

import sys
from typing import NoReturn

from cifar.cli.app import app, run_app

# Each adds its verbs to the application, in the order that the help shows them.
# isort: off
from cifar.cli.train import train_main
from cifar.cli import evaluate, compare, report, predict, explain, demo, share, inspect

# isort: on
__all__ = [
    "app",
    "compare",
    "demo",
    "evaluate",
    "explain",
    "inspect",
    "main",
    "predict",
    "report",
    "run_app",
    "share",
    "train_main",
]


def main() -> NoReturn:
    """The command `cifar`."""
    sys.exit(run_app(app, sys.argv[1:], program="cifar"))
