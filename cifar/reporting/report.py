"""`cifar report`: one self-contained HTML file of everything that is known of one or several runs."""

import base64
import functools
import io
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cifar
from cifar.data.split import CLASSES
from cifar.errors import WorldError
from cifar.evaluation.conclusions import figure_of_p, points
from cifar.recipes import from_mapping, to_mapping
from cifar.recipes.text import RETIRED
from cifar.reporting.records import Record, showing
from cifar.reporting.vectors import accuracy_against, curves_of_run, overlaid_curves, reliability_diagram
from cifar.runs import CORRUPTIONS, EVALUATION, MISTAKES, REFERENCES, TRAIN_BATCH, VAL_BATCH

MAX_PIXELS = 20_000_000  # of a picture; the gallery has 2 million
REQUIRED = ("model", "epochs", "batch_size", "lr")  # fields of a recipe without a default


def render(records: Sequence[Record], *, command: str, comparison: Mapping[str, Any] | None) -> str:
    """Return the HTML page of tested runs.

    Args:
        records: in the order in which the page shows them; several get a leaderboard.
        command: what was typed, for provenance.
        comparison: of several runs: what `compare_runs` returns, or {"reason": why they cannot be compared}.
    """
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
    runs = []
    for record in records:
        with showing(record.folder):
            runs.append(describe(record))
    with showing(records[0].folder.parent if len(records) > 1 else records[0].folder):
        page = environment.get_template("report.html.jinja").render(
            title=records[0].name if len(records) == 1 else f"{len(records)} runs",
            runs=runs,
            together=describe_together(records) | {"comparison": comparison} if len(records) > 1 else None,
            classes=CLASSES,
            note=sample_note(records),
            command=command,
            version=cifar.__version__,
            written=datetime.now(UTC).isoformat(timespec="minutes"),
        )
    return page.encode("utf-8", "backslashreplace").decode()  # names of files may be no text


def describe(record: Record) -> dict[str, Any]:
    """Return what the page shows of a run."""
    evaluation = record.evaluations.get(EVALUATION)
    batches = [record.folder / name for name in (TRAIN_BATCH, VAL_BATCH)]
    return {
        "name": record.name,
        "anchor": f"run-{record.name}".replace("/", "-").replace(" ", "-"),
        "summary": record.summary,
        "recipe": changed_fields(record.summary["recipe"]),
        "curves": curves_of_run(record),
        "evaluation": evaluation,
        "reliability": reliability_diagram(record) if evaluation and "reliability" in evaluation else None,
        "references": record.evaluations.get(REFERENCES),
        "corruptions": record.evaluations.get(CORRUPTIONS),
        "mistakes": picture(record.folder / MISTAKES) if (record.folder / MISTAKES).is_file() else None,
        "batches": [picture(path) for path in batches if path.is_file()],
        "confusion": shaded_confusion(evaluation["confusion"]) if evaluation else None,
        "commands": [record.summary["command"], *commands_after(record)],
    }


def describe_together(records: Sequence[Record]) -> dict[str, Any]:
    """Return what the page shows of several runs at once: their curves, and accuracy against time and parameters."""
    return {
        "curves": overlaid_curves(records),
        "scatters": [
            accuracy_against(records, value=lambda record: record.summary["seconds"] / 60, unit="minutes of training"),
            accuracy_against(records, value=lambda record: record.summary["parameters"], unit="parameters"),
        ],
        "machines": sorted({machine_of(record.summary) for record in records}),
        "corrupted": rank_corrupted(records),
    }


def rank_corrupted(records: Sequence[Record]) -> dict[str, Any] | None:
    """Return runs by mean accuracy on corrupted images; under "reason" why not, where they saw others; None of one."""
    rows = [
        {"name": record.name, **record.evaluations[CORRUPTIONS]}
        for record in records
        if CORRUPTIONS in record.evaluations
    ]
    if len(rows) < 2:
        return None
    checksums = {row["name"]: str(row.get("images_sha256"))[:8] for row in rows}
    if len(set(checksums.values())) > 1:
        sets = ", ".join(f"{name} {checksum}…" for name, checksum in checksums.items())
        return {"reason": f"the runs saw different images (SHA-256: {sets}). Evaluate them again with --corruptions."}
    return {"rows": sorted(rows, key=lambda row: -float(row["mean_accuracy"]))}


def changed_fields(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields of a recipe that are not at their default, and always those that have none.

    Args:
        recipe: flat, as of `to_mapping` or of an older summary; its retired fields are left out where they did nothing.
    """
    required = {name: recipe[name] for name in REQUIRED}
    defaults = to_mapping(from_mapping(required, origin="the summary's recipe"))
    return {
        name: f"{value}"
        for name, value in recipe.items()
        if name in required or (value not in RETIRED[name] if name in RETIRED else value != defaults.get(name))
    }


def shaded_confusion(confusion: Sequence[Sequence[int]]) -> list[list[tuple[int, float]]]:
    """Return each count [10][10] with its shade, the square root of its fraction of the row: few errors show, too."""
    return [[(count, round((count / max(sum(row), 1)) ** 0.5, 3)) for count in row] for row in confusion]


def commands_after(record: Record) -> list[str]:
    """Return the commands that made what is shown, after the training itself."""
    purposes = dict.fromkeys(evaluation["purpose"] for evaluation in record.summary["test_readings"])
    return [f"{purpose} {shlex.quote(record.name)}" for purpose in purposes if purpose.startswith("cifar ")]


def picture(path: Path) -> str:
    """Return a PNG file as a data URL, in WebP: photographs as PNG would fill the page's 5 MB after two runs.

    Raises:
        WorldError: it is not a picture that a run drew.
    """
    from PIL import Image

    data = io.BytesIO()
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width:,}×{image.height:,} pixels")
            image.convert("RGB").save(data, format="WEBP", quality=85)
    except Exception as error:  # Pillow's of damaged files are of every kind
        reason = " ".join(f"{error}".split()) or type(error).__name__
        raise WorldError(f"{path} is not a picture that a run drew ({reason}): remove it, or evaluate again.") from None
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode()


def machine_of(summary: Mapping[str, Any]) -> str:
    """Return the machine of a summary in a few words."""
    machine = summary["machine"]
    name = ", ".join(machine["gpus"]) or machine["processor"]
    return f"{name}, {machine['cores']} cores ({machine['instructions']}), {machine['memory_bytes'] / 2**30:.0f} GiB"


def sample_note(records: Sequence[Record]) -> str:
    """Return what a page must say in capitals where a run is on the bundled sample; else ""."""
    names = (record.summary["data"] for record in records)
    return next((name for name in names if name.startswith("SAMPLE")), "")


def percent(value: float) -> str:
    """Return a fraction in per cent."""
    return f"{value:.2%}"


def interval(ends: Sequence[float]) -> str:
    """Return an interval of fractions in per cent."""
    return f"{ends[0]:.2%} to {ends[1]:.2%}"


def duration(seconds: float) -> str:
    """Return seconds as seconds or minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
