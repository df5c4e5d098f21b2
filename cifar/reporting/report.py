"""`cifar report`: one HTML file that holds everything known of one or several runs, and needs nothing beside it."""

import base64
import dataclasses
import functools
import importlib.metadata
import io
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cifar.data.split import CLASSES
from cifar.errors import InputError, WorldError
from cifar.evaluation.conclusions import figure_of_p, points
from cifar.files import write_text
from cifar.recipes import Recipe
from cifar.reporting.records import Record
from cifar.reporting.vectors import accuracy_against, curves_of_run, overlaid_curves, reliability_diagram
from cifar.runs import CORRUPTIONS, EVALUATION, MISTAKES, REFERENCES


def write_report(records: Sequence[Record], path: Path, *, command: str) -> None:
    """Write the report of some runs, whole.

    Args:
        records: as `read_records` gives them; several get a leaderboard, the best on the test set first.
        path: of the HTML file.
        command: what was typed, for the record.

    Raises:
        OSError: the file cannot be written.
    """
    write_text(path, render(records, command=command))


def render(records: Sequence[Record], *, command: str) -> str:
    """The page as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("cifar", "reporting"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "percent": percent,
        "interval": interval,
        "duration": duration,
        "points": functools.partial(points, sign=True),
        "p": figure_of_p,
    }
    ranked = sorted(records, key=lambda record: -record.summary["test_accuracy"])
    return environment.get_template("report.html.jinja").render(
        title=records[0].name if len(records) == 1 else f"{len(records)} runs",
        runs=[describe(record) for record in ranked],
        together=describe_together(ranked) if len(records) > 1 else None,
        classes=CLASSES,
        note=sample_note(records),
        command=command,
        version=importlib.metadata.version("cifar"),
        written=datetime.now(UTC).isoformat(timespec="minutes"),
    )


def describe(record: Record) -> dict[str, Any]:
    """What the page shows of one run."""
    evaluation = record.found.get(EVALUATION)
    return {
        "name": record.name,
        "anchor": f"run-{record.name}".replace("/", "-").replace(" ", "-"),
        "summary": record.summary,
        "recipe": changed_fields(record.summary["recipe"]),
        "curves": curves_of_run(record),
        "evaluation": evaluation,
        "reliability": reliability_diagram(record) if evaluation and "reliability" in evaluation else None,
        "references": record.found.get(REFERENCES),
        "corruptions": record.found.get(CORRUPTIONS),
        "mistakes": picture(record.folder / MISTAKES) if (record.folder / MISTAKES).exists() else None,
        "confusion": shaded_confusion(evaluation["confusion"]) if evaluation else None,
        "commands": [record.summary["command"], *commands_after(record)],
    }


def describe_together(records: Sequence[Record]) -> dict[str, Any]:
    """What the page shows of several runs at once: their curves, and what accuracy cost in time and in parameters."""
    return {
        "curves": overlaid_curves(records),
        "scatters": [
            accuracy_against(records, value=lambda one: one.summary["seconds"] / 60, unit="minutes of training"),
            accuracy_against(records, value=lambda one: one.summary["parameters"], unit="parameters"),
        ],
        "machines": sorted({machine_of(record.summary) for record in records}),
        "comparison": compare(records),
    }


def compare(records: Sequence[Record]) -> dict[str, Any]:
    """What `compare_runs` says of runs, by the names they have on the page, or under "reason" why it cannot."""
    from cifar.evaluation.comparable import read_runs
    from cifar.evaluation.compare import compare_runs

    try:
        runs = read_runs([record.folder for record in records])
        named = zip(runs, records, strict=True)
        return compare_runs([dataclasses.replace(run, name=record.name) for run, record in named])
    except (InputError, WorldError) as error:
        return {"reason": str(error)}


def changed_fields(recipe: Mapping[str, Any]) -> dict[str, str]:
    """The fields of a recipe that are not at their default, the model, epochs, batch size and rate always."""
    defaults = {field.name: field.default for field in dataclasses.fields(Recipe)}
    return {name: f"{value}" for name, value in recipe.items() if value != defaults.get(name)}


def shaded_confusion(confusion: Sequence[Sequence[int]]) -> list[list[tuple[int, float]]]:
    """Each count [10][10] with a share of ink, the square root of its share of the row, so that few errors show."""
    return [[(count, round((count / max(sum(row), 1)) ** 0.5, 3)) for count in row] for row in confusion]


def commands_after(record: Record) -> list[str]:
    """The commands that made what is shown beside the training itself."""
    purposes = dict.fromkeys(reading["purpose"] for reading in record.summary["test_readings"])
    return [f"{purpose} {shlex.quote(record.name)}" for purpose in purposes if purpose.startswith("cifar ")]


def picture(path: Path) -> str:
    """A picture file as a data address, in WebP: photographs as PNG would fill the page's 5 MB after two runs."""
    from PIL import Image

    data = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(data, format="WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode()


def machine_of(summary: Mapping[str, Any]) -> str:
    """The machine in a few words."""
    machine = summary["machine"]
    name = ", ".join(machine["gpus"]) or machine["processor"]
    return f"{name}, {machine['cores']} cores ({machine['instructions']}), {machine['memory_bytes'] / 2**30:.0f} GiB"


def sample_note(records: Sequence[Record]) -> str:
    """What a page must say in capitals where a run is on the bundled sample; else nothing."""
    return next((one.summary["data"] for one in records if one.summary["data"].startswith("SAMPLE")), "")


def percent(value: float) -> str:
    """A fraction in per cent."""
    return f"{value:.2%}"


def interval(ends: Sequence[float]) -> str:
    """An interval of fractions in per cent."""
    return f"{ends[0]:.2%} to {ends[1]:.2%}"


def duration(seconds: float) -> str:
    """Seconds or minutes of training."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
