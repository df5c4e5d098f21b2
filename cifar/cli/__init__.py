"""Verbs and flags, a file for each or for a few that belong together: the only room that prints, asks and exits."""

import sys
from typing import NoReturn

from cifar.cli.app import app, run_app
from cifar.cli.terminal import prepare

# Each adds its verbs to the application, in the order that the help shows them.
# isort: off
from cifar.cli.train import train_main
from cifar.cli import sweep, evaluate, compare, report, predict, explain, export, demo, share, models, inspect  # noqa: F401

# isort: on
from cifar.training.launch import leave

__all__ = ["app", "main", "run_app", "train_main"]


def main() -> NoReturn:
    """The command `cifar`."""
    prepare()
    leave(run_app(app, sys.argv[1:], program="cifar"))
