"""Write docs/ledger.md: every recorded test evaluation, by recipe, those of replaced runs included.

    python scripts/ledger.py

They are read from all versions of the summaries that git has of `results/`, and from those in the folder now.
"""

import json
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
PAGE = "docs/ledger.md"
BEGIN, END = "<!-- ledger: written by scripts/ledger.py -->\n", "<!-- end of ledger -->\n"


class Evaluation(NamedTuple):
    """A test evaluation of a recorded run.

    Attributes:
        recipe: as it was typed.
        time: UTC.
        run: its folder in results/.
        purpose: why the test set was opened.
        accuracy: of the run's result, a fraction; None where it has none.
        kept: whether the run is still recorded.
    """

    recipe: str
    time: str
    run: str
    purpose: str
    accuracy: float | None
    kept: bool


def git(*arguments: str) -> str:
    """What git prints, run in the repository."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def versions() -> Iterator[tuple[str, dict[str, Any]]]:
    """The folder and the content of every version of a summary that git has, the oldest first."""
    seen = set()
    for commit in git("log", "--reverse", "--format=%H", "--", "results").split():
        for line in git("ls-tree", "-r", commit, "results").splitlines():
            identity, _, name = line.partition("\t")
            if name.endswith("/summary.json") and (identity, name) not in seen:
                seen.add((identity, name))
                yield str(Path(name).parent), json.loads(git("cat-file", "-p", identity.split()[2]))


def evaluations(summaries: Iterable[tuple[str, dict[str, Any]]], current: set[str]) -> list[Evaluation]:
    """The test evaluations that summaries record, each once, in the order of their times.

    Args:
        summaries: folder and content; of one evaluation the last counts.
        current: times of evaluations that are recorded now.
    """
    found = {}
    for folder, summary in summaries:
        recipe = summary["command"].partition("-m ")[2].split()[0]
        for entry in summary["test_readings"]:
            found[Path(folder).name, entry["time"]] = Evaluation(  # folders were moved
                recipe, entry["time"], folder.removeprefix("results/"), entry["purpose"], summary["test_accuracy"],
                entry["time"] in current,
            )  # fmt: skip
    return sorted(found.values(), key=lambda evaluation: evaluation.time)


def recorded_now() -> list[tuple[str, dict[str, Any]]]:
    """The folder and the content of every summary in results/."""
    paths = sorted((ROOT / "results").rglob("summary.json"))
    return [(str(path.parent.relative_to(ROOT)), json.loads(path.read_text())) for path in paths]


def tables(found: list[Evaluation]) -> str:
    """A row per recipe, then a row per evaluation."""
    lines = [
        "| recipe | test evaluations | runs | of these replaced or removed | first | last |",
        "|---|---|---|---|---|---|",
    ]
    for recipe in sorted({evaluation.recipe for evaluation in found}):
        own = [evaluation for evaluation in found if evaluation.recipe == recipe]
        results = [evaluation for evaluation in own if evaluation.purpose == "result of the run"]
        gone = sum(not evaluation.kept for evaluation in results)
        cells = (f"`{recipe}`", len(own), len(results), gone, own[0].time[:10], own[-1].time[:10])
        lines.append(f"| {' | '.join(map(str, cells))} |")
    kept = sum(evaluation.kept for evaluation in found)
    lines += ["", f"In all {len(found)}, of which {kept} are of runs that are recorded now.", ""]
    lines += [
        "| time (UTC) | recipe | run | purpose | accuracy of the run | recorded now |",
        "|---|---|---|---|---|---|",
    ]
    for evaluation in found:
        accuracy = "" if evaluation.accuracy is None else f"{evaluation.accuracy:.2%}"
        cells = (
            evaluation.time[:16].replace("T", " "), f"`{evaluation.recipe}`", evaluation.run, evaluation.purpose,
            accuracy, "yes" if evaluation.kept else "no",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def written(text: str) -> str:
    """The page with its tables written anew.

    Args:
        text: of the page.
    """
    now = recorded_now()
    current = {entry["time"] for _, summary in now for entry in summary["test_readings"]}
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{tables(evaluations([*versions(), *now], current))}\n{END}{after}"


if __name__ == "__main__":
    page = ROOT / PAGE
    page.write_text(written(page.read_text()))
