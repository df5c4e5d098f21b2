"""`cifar models`: what there is to choose from, and what it reached."""

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from cifar.cli import display
from cifar.cli.app import app

if TYPE_CHECKING:
    from cifar.recipes.recorded import Recorded


@app.command(rich_help_panel="Train")
def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print everything that is recorded as JSON.")] = False,
) -> None:
    """List the recipes: recorded test accuracy, parameters, minutes, and whether weights come along."""
    from cifar.recipes import RECIPES
    from cifar.recipes.recorded import RECOMMENDED, recorded

    rows = recorded()
    if as_json:
        print(json.dumps([row._asdict() for row in rows.values()], indent=2))
        return
    names = ("recipe", "accuracy", "95 % interval", "TTA", "seeds", "network", "minutes", "weights")
    right = ("accuracy", "95 % interval", "seeds", "network", "minutes")
    columns = [Column(name, justify="right" if name in right else "left", no_wrap=True) for name in names]
    table = Table(*columns, box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for name in [*rows, *(name for name in RECIPES if name not in rows)]:
        table.add_row(name + " ←" * (name == RECOMMENDED), *cells(rows.get(name)))
    display.stdout.print(table)
    machines = ", ".join(sorted({row.machine for row in rows.values()}))
    display.result_text(
        f"\n← to start with: `cifar train -m {RECOMMENDED}`; with the weights that come\n"
        f"along, `cifar predict {RECOMMENDED} photo.jpg`.\n"
        "Accuracy: on the test images. Network: parameters. Minutes: of training, for the\n"
        f"speednets of the whole process; {machines}.\n"
        "Empty: no run is recorded."
    )


def cells(row: "Recorded | None") -> list[str]:
    """A recipe's row after its name; nothing where nothing is recorded."""
    if row is None:
        return []
    interval = "one seed" if row.interval is None else f"{100 * row.interval[0]:.2f}–{row.interval[1]:.2%}"
    size = f"{row.parameters / 1e6:.1f} M" if row.parameters >= 1e6 else f"{row.parameters / 1e3:.0f} k"
    minutes, weights = f"{row.minutes:.1f}", "yes" if row.weights else "no"
    return [f"{row.accuracy:.2%}", interval, row.tta, str(row.seeds), size, minutes, weights]
