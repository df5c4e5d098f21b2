"""`cifar compare`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cifar.cli import display
from cifar.cli.app import app, check_split, check_views
from cifar.errors import InputError, WorldError

if TYPE_CHECKING:
    from cifar.evaluation.comparison import EvaluatedRun

MOST_PAIRS = 10  # that are shown of recipes with several seeds, which say more than their runs


@app.command(rich_help_panel="Understand")
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of evaluated runs, or of studies.")],
    with_published: Annotated[
        bool, typer.Option("--published", help="Also against 30 published networks, on the 10,000 test images.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON instead of tables.")] = False,
    split: Annotated[str, typer.Option("--split", help="test, or validation after `cifar evaluate --split`.")] = "test",
    tta: Annotated[str, typer.Option("--tta", help="none, mirror or shift; default: each run's recipe.")] = "",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the bootstraps.")] = 0,
    save: Annotated[
        Path | None, typer.Option("-o", "--output", "--save", help="Also write the same JSON to this file.")
    ] = None,
) -> None:
    """Compare runs on the same images: paired difference with interval, McNemar, agreement; seeds and recipes.

    Reads the predictions that `cifar evaluate` wrote: no new test evaluation.
    """
    from cifar.audit.published import check_whole_test
    from cifar.evaluation.comparison import compare_runs
    from cifar.reporting.records import read_evaluated_runs
    from cifar.runs import expand_studies, write_file

    runs = expand_studies(runs)
    if len(runs) < 2 and not with_published:
        raise InputError("Name two runs or more to compare, or one with --published.")
    if save and (save.is_dir() or not save.parent.is_dir()):
        raise InputError(f"--output {save} is no file that can be written: name one in a folder that exists.")
    check_split(split)
    check_views(tta)
    evaluated_runs = read_evaluated_runs(runs, split=split, views=tta)
    absent = None
    if with_published:
        check_whole_test(evaluated_runs[0])
    result = compare_runs(evaluated_runs, seed=seed) | {"published": None}
    if with_published:
        try:
            result |= rank_among_published(result, evaluated_runs, seed=seed)
        except WorldError as error:  # the comparison of the runs needs no network
            absent = error
    text = json.dumps(result, indent=2, allow_nan=False)
    if as_json:
        print(text)
    else:
        show_comparison(result)
    if save:
        write_file(save, text + "\n")
        display.say(f"written to {save}")
    if absent:
        raise absent


def rank_among_published(result: Mapping[str, Any], runs: "Sequence[EvaluatedRun]", *, seed: int) -> dict[str, Any]:
    """What the published networks, which are fetched, add to what `compare_runs` says of runs.

    Raises:
        WorldError: they cannot be had.
    """
    from cifar.audit.published import conclude_rank, rank_runs, read_published

    with display.byte_progress() as progress:
        published = read_published(say=display.say, progress=progress)
    rankings = rank_runs(runs, published, seed=seed)
    return {"published": rankings, "conclusions": [*result["conclusions"], *map(conclude_rank, rankings)]}


def show_comparison(result: Mapping[str, Any]) -> None:
    """Print the tables that are not empty, then the conclusions."""
    prefix = display.sample_prefix(result)
    display.result_text(f"{prefix}{result['num_images']:,} {result['split']} images, the same for all")
    show_runs(result["runs"])
    if len(result["pairs"]) > MOST_PAIRS and all(len(recipe["seeds"]) > 1 for recipe in result["recipes"]):
        display.result_text(f"\n{len(result['pairs'])} pairs of runs: --json has them")
    elif result["pairs"]:
        show_pairs(result)
    if any(len(recipe["seeds"]) > 1 for recipe in result["recipes"]):
        show_recipes(result)
    for ranking in result["published"] or []:
        show_published(ranking)
    display.result_text("")
    for sentence in result["conclusions"]:
        display.result_text(f"{prefix}{sentence}")


def show_runs(runs: Sequence[Mapping[str, Any]]) -> None:
    """Print a line per run."""
    rows = [("run", "model", "seed", "TTA", "accuracy", "95 % interval", "test evaluations")]
    rows += [
        (run["run"], run["model"], str(run["seed"]), run["views"], f"{run['accuracy']:.2%}",
         display.interval(run["interval"]), str(run["test_readings"]))
        for run in runs
    ]  # fmt: skip
    show_table(rows, num_names=2)


def show_pairs(result: Mapping[str, Any]) -> None:
    """Print a line per pair, what its columns mean, and the majority vote."""
    from cifar.evaluation.conclusions import figure_of_p, points, points_range

    several = len(result["pairs"]) > 1
    names = ("first", "second", "points", "95 % interval", "first only", "second only", "McNemar p")
    rows = [(*names, *["Holm p"] * several, "agreement", "error overlap")]
    for pair in result["pairs"]:
        only = (f"{pair['only_first_right']:,}", f"{pair['only_second_right']:,}")
        p_values = [figure_of_p(pair["mcnemar_p"]), *[figure_of_p(pair["holm_p"])] * several]
        overlap = "" if pair["error_overlap"] is None else f"{pair['error_overlap']:.2%}"
        difference = (points(pair["difference"], sign=True), points_range(pair["interval"], sign=True))
        rows.append((pair["first"], pair["second"], *difference, *only, *p_values, f"{pair['agreement']:.2%}", overlap))
    show_table(rows, num_names=2)
    bootstrap = result["bootstrap"]
    display.result_text(
        "points: accuracy of the first minus that of the second, with the interval of a paired bootstrap "
        f"({bootstrap['num_resamples']:,} resamples, seed {bootstrap['seed']}); only: images that only this run "
        "gets right; McNemar p: exact; "
        + (f"Holm p: corrected for {len(result['pairs'])} pairs; " if several else "")
        + "agreement: equal predictions; error overlap: errors of both among errors of either"
    )
    vote = result["majority"]
    display.result_text(
        f"majority vote of the {len(result['runs'])} runs: {vote['accuracy']:.2%}, 95 % interval "
        f"{display.interval(vote['interval'])}; {vote['num_ties']:,} ties, broken by the mean probability"
    )


def show_recipes(result: Mapping[str, Any]) -> None:
    """Print a line per recipe, over its seeds, and a line per pair of recipes with several."""
    from cifar.evaluation.conclusions import figure_of_p, points, points_range

    rows = [("recipe", "seeds", "mean", "std, points", "95 % interval over seeds and images")]
    for recipe in result["recipes"]:
        spread = ("", "")
        if recipe["std"] is not None:
            spread = (points(recipe["std"]), display.interval(recipe["interval"]))
        rows.append((recipe["recipe"], str(len(recipe["seeds"])), f"{recipe['mean']:.2%}", *spread))
    show_table(rows, num_names=1)
    if not result["recipe_pairs"]:
        return
    pairs = [("first", "second", "points", "Welch interval", "Welch p", "Holm p", "interval over seeds and images")]
    for pair in result["recipe_pairs"]:
        test, tests = pair["welch"], ("", "", "")
        if test["p"] is not None:
            tests = (
                points_range(test["interval"], sign=True), figure_of_p(test["p"]), figure_of_p(test["holm_p"])
            )  # fmt: skip
        both = points_range(pair["hierarchical_interval"], sign=True)
        pairs.append((pair["first"], pair["second"], points(pair["difference"], sign=True), *tests, both))
    show_table(pairs, num_names=2)
    display.result_text(
        "Welch: the means over seeds, on these images; over seeds and images: a hierarchical bootstrap of both "
        "(conservative, unless few seeds differ much: where it is the narrower one, trust Welch's)"
    )


def show_published(ranking: Mapping[str, Any]) -> None:
    """Print the published networks and the run among them, the best first; ranking: an item of `rank_runs`."""
    from cifar.evaluation.conclusions import figure_of_p, points, points_range

    display.result_text(f"\n{ranking['run']} among {len(ranking['models'])} published networks (Recht et al. 2018)")
    rows = [
        ("rank", "network", "accuracy", "95 % interval", "points", "95 % interval", "McNemar p", "Holm p", "agreement")
    ]
    models = [
        (model["rank"], model["model"], f"{model['accuracy']:.2%}", display.interval(model["accuracy_interval"]),
         points(model["difference"], sign=True), points_range(model["interval"], sign=True),
         figure_of_p(model["mcnemar_p"]), figure_of_p(model["holm_p"]), f"{model['agreement']:.2%}")
        for model in ranking["models"]
    ]  # fmt: skip
    own = (
        ranking["rank"],
        f"> {ranking['run']}",
        f"{ranking['accuracy']:.2%}",
        display.interval(ranking["accuracy_interval"]),
    )
    ranked = sorted([*models, (*own, *[""] * 5)], key=lambda row: row[0])
    show_table(rows + [(str(rank), *cells) for rank, *cells in ranked], num_names=2)
    display.result_text(
        f"points: accuracy of the network minus that of {ranking['run']}, paired on the same images; Holm p: corrected "
        f"for the {len(models)} networks"
    )


def show_table(rows: Sequence[Sequence[str]], *, num_names: int) -> None:
    """Print aligned columns after an empty line, nothing cut off.

    Args:
        rows: of cells; the first is the heading.
        num_names: columns aligned to the left, the others to the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    display.result_text("")
    for row in rows:
        cells = [
            cell.ljust(width) if column < num_names else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        display.result_text("  ".join(cells).rstrip())
