"""`cifar compare`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cifar import show
from cifar.cli.app import app
from cifar.errors import InputError


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of evaluated runs.")],
    with_published: Annotated[
        bool, typer.Option("--published", help="Also against 30 published networks, on the 10,000 test images.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON instead of tables.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the bootstraps.")] = 0,
    save: Annotated[Path | None, typer.Option("--save", help="Write the same JSON to this file, too.")] = None,
) -> None:
    """Runs on the same images: paired difference with interval, McNemar, agreement; seeds and recipes; published ones.

    Reads the predictions that `cifar evaluate` has left: no new reading of the test set.
    """
    from cifar.evaluation.comparable import check_whole_test, read_runs
    from cifar.evaluation.compare import compare_runs
    from cifar.evaluation.published import read_published
    from cifar.files import write_json

    if len(runs) < 2 and not with_published:
        raise InputError("Name two runs or more to compare, or one with --published.")
    if save and (save.is_dir() or not save.parent.is_dir()):
        raise InputError(f"--save {save} is no file that can be written: name one in a folder that exists.")
    read = read_runs(runs)
    published = None
    if with_published:
        check_whole_test(read[0])
        with show.byte_progress() as progress:
            published = read_published(say=show.say, progress=progress)
    result = compare_runs(read, seed=seed, published=published)
    if as_json:
        print(json.dumps(result, indent=2, allow_nan=False))
    else:
        show_comparison(result)
    if save:
        write_json(save, result)
        show.say(f"written to {save}")


def show_comparison(result: Mapping[str, Any]) -> None:
    """Print the tables that there is something for, then what they amount to."""
    prefix = show.sample_prefix(result)
    show.result_text(f"{prefix}{result['num_images']:,} {result['split']} images, the same for all")
    show_runs(result["runs"])
    if result["pairs"]:
        show_pairs(result)
    if any(len(recipe["seeds"]) > 1 for recipe in result["recipes"]):
        show_recipes(result)
    for one in result["published"] or []:
        show_published(one)
    show.result_text("")
    for sentence in result["conclusions"]:
        show.result_text(f"{prefix}{sentence}")


def show_runs(runs: Sequence[Mapping[str, Any]]) -> None:
    """Print a line a run; readings are those of the test split."""
    rows = [("run", "model", "seed", "views", "accuracy", "95 % interval", "readings")]
    rows += [
        (run["run"], run["model"], str(run["seed"]), run["views"], f"{run['accuracy']:.2%}",
         show.interval(run["interval"]), str(run["test_readings"]))
        for run in runs
    ]  # fmt: skip
    show_table(rows, num_names=2)


def show_pairs(result: Mapping[str, Any]) -> None:
    """Print a line a pair, what its columns mean, and the vote."""
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
    show.result_text(
        "points: accuracy of the first less that of the second, with the interval of a paired bootstrap "
        f"({bootstrap['num_resamples']:,} resamples, seed {bootstrap['seed']}); only: images that one alone gets "
        "right; McNemar p: exact; "
        + (f"Holm p: corrected for {len(result['pairs'])} pairs; " if several else "")
        + "agreement: equal predictions; error overlap: errors of both among errors of either"
    )
    vote = result["majority"]
    show.result_text(
        f"majority vote of the {len(result['runs'])} runs: {vote['accuracy']:.2%}, 95 % interval "
        f"{show.interval(vote['interval'])}; {vote['num_ties']:,} ties, broken by the mean probability"
    )


def show_recipes(result: Mapping[str, Any]) -> None:
    """Print a line a recipe, over its seeds, and a line a pair of recipes that have several."""
    from cifar.evaluation.conclusions import figure_of_p, points, points_range

    rows = [("recipe", "seeds", "mean", "std, points", "95 % interval of the mean")]
    for recipe in result["recipes"]:
        spread = ("", "")
        if recipe["std"] is not None:
            spread = (points(recipe["std"]), show.interval(recipe["interval"]))
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
    show.result_text(
        "Welch: the means over seeds, on these images; over seeds and images: a hierarchical bootstrap, both drawn "
        "anew (too narrow with few seeds: where it is the narrower one, trust Welch's)"
    )


def show_published(one: Mapping[str, Any]) -> None:
    """Print the published networks and the run among them, the best first."""
    from cifar.evaluation.conclusions import figure_of_p, points, points_range

    show.result_text(f"\n{one['run']} among {len(one['models'])} published networks (Recht et al. 2018)")
    rows = [
        ("rank", "network", "accuracy", "95 % interval", "points", "95 % interval", "McNemar p", "Holm p", "agreement")
    ]
    models = [
        (model["rank"], model["model"], f"{model['accuracy']:.2%}", show.interval(model["accuracy_interval"]),
         points(model["difference"], sign=True), points_range(model["interval"], sign=True),
         figure_of_p(model["mcnemar_p"]), figure_of_p(model["holm_p"]), f"{model['agreement']:.2%}")
        for model in one["models"]
    ]  # fmt: skip
    ours = (one["rank"], f"> {one['run']}", f"{one['accuracy']:.2%}", show.interval(one["accuracy_interval"]))
    ranked = sorted([*models, (*ours, *[""] * 5)], key=lambda row: row[0])
    show_table(rows + [(str(rank), *cells) for rank, *cells in ranked], num_names=2)
    show.result_text(
        f"points: accuracy of the network less that of {one['run']}, paired on the same images; Holm p: corrected for "
        f"the {len(models)} networks"
    )


def show_table(rows: Sequence[Sequence[str]], *, num_names: int) -> None:
    """Print aligned columns after an empty line: names to the left, figures to the right, nothing cut off."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    show.result_text("")
    for row in rows:
        cells = [
            cell.ljust(width) if place < num_names else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        show.result_text("  ".join(cells).rstrip())
