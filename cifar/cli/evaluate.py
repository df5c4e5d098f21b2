"""`cifar evaluate`, and the tables that it shows."""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from cifar.cli import display
from cifar.cli.app import Data, Device, TrustCode, app, check_split, check_views, open_data
from cifar.errors import InputError
from cifar.machine import choose_device


@app.command(rich_help_panel="Understand")
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    split: Annotated[str, typer.Option("--split", help="test or validation.")] = "test",
    tta: Annotated[
        str,
        typer.Option("--tta", help="Test-time augmentation: none, mirror (2 views) or shift (6); default: recipe."),
    ] = "",
    references: Annotated[
        bool, typer.Option("--references", help="Compare with human labels and the test set's known faults, too.")
    ] = False,
    corruptions: Annotated[
        bool, typer.Option("--corruptions", help="Evaluate on 75 corrupted copies of the test images, too (minutes).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON instead of tables.")] = False,
    device: Device = "",
    data: Data = "",
    trust_code: TrustCode = False,
) -> None:
    """Accuracy with interval, loss, calibration, figures per class; writes evaluation.json and pictures."""
    from cifar.pipeline.evaluation import evaluate_run
    from cifar.pipeline.job import data_to_reopen
    from cifar.runs import CROSSVAL, run_recipe

    check_split(split)
    check_views(tta)
    if (run / CROSSVAL).exists():
        raise InputError(f"{run} holds a cross-validation: evaluate one of its folds, such as {run / 'fold-0'}.")
    recipe = run_recipe(run)
    device = choose_device(device)
    dataset = open_data(data or data_to_reopen(run))
    purpose = "cifar evaluate" + f" --tta {tta}" * bool(tta) + " --references" * references
    with display.TerminalDisplay() as shown:
        evaluation = evaluate_run(
            run, dataset, split=split, purpose=purpose + " --corruptions" * corruptions, device=device, display=shown,
            views=tta, trust_code=trust_code, references=references, corruptions=corruptions,
        )  # fmt: skip
    if as_json:
        print(json.dumps(evaluation, indent=2))
    else:
        show_evaluation(evaluation, run, recipe_views=recipe.tta.views)


def show_evaluation(evaluation: Mapping[str, Any], folder: Path, *, recipe_views: str) -> None:
    """Print what the files of an evaluation hold, and where they are.

    Args:
        evaluation: what `evaluate_run` gives.
        folder: of the run.
        recipe_views: the recipe's TTA.
    """
    display.result_text(
        f"{display.sample_prefix(evaluation)}{evaluation['split']}: accuracy {evaluation['accuracy']:.2%} of "
        f"{evaluation['num_images']:,} images, 95 % interval {display.interval(evaluation['interval'])}; "
        f"loss {evaluation['loss']:.4f} nats"
    )
    display.result_text(views_line(evaluation, recipe_views=recipe_views))
    table = Table("class", *(Column(name, justify="right") for name in ("precision", "recall", "F1", "images")))
    for row in evaluation["per_class"]:
        rates = (f"{row['precision']:.2%}", f"{row['recall']:.2%}", f"{row['f1']:.4f}")
        table.add_row(row["class"], *rates, f"{row['support']:,}")
    display.stdout.print(table)
    show_calibration(evaluation)
    from cifar.runs import evaluation_name

    files = ["evaluation.json", "predictions.npz", "confusion.png", "reliability.png", "mistakes.png"]
    if "references" in evaluation:
        show_references(evaluation["references"])
        files.append("references.json")
    if "corruptions" in evaluation:
        show_corruptions(evaluation["corruptions"])
        files += ["corruptions.json", "corruptions.png"]
    which = {"split": evaluation["split"], "views": evaluation["views"], "recipe_views": recipe_views}
    display.result_text(f"written to {folder}: {', '.join(evaluation_name(name, **which) for name in files)}")


def views_line(evaluation: Mapping[str, Any], *, recipe_views: str) -> str:
    """Which TTA the evaluation used, and at what cost."""
    views, passes = evaluation["views"], evaluation["passes_an_image"]
    most = "up to " if evaluation["views_below"] < 1 else ""
    line = f"TTA: {views}, {most}{passes} forward {'pass' if passes == 1 else 'passes'} per image"
    line += f", {evaluation['prediction_seconds']:.1f} s of prediction"
    if views != recipe_views:
        line += f"; the recipe's is {recipe_views}: summary.json keeps its result"
    return line


def show_calibration(evaluation: Mapping[str, Any]) -> None:
    """Print calibration errors and Brier score, and what the temperature changes."""
    display.result_text(
        f"calibration error {evaluation['calibration_error']:.2%} (15 bins), "
        f"{evaluation['adaptive_calibration_error']:.2%} (adaptive); Brier score {evaluation['brier']:.4f}"
    )
    scaling = evaluation["temperature_scaling"]
    if scaling:
        before, after = scaling["before"], scaling["after"]
        display.result_text(
            f"at temperature {scaling['temperature']:.3f}, fitted on {scaling['num_fitted']:,} validation images: "
            f"calibration error {before['calibration_error']:.2%} → {after['calibration_error']:.2%}, "
            f"loss {before['loss']:.4f} → {after['loss']:.4f} nats"
        )


def show_references(references: Mapping[str, Any]) -> None:
    """Print how predictions compare with human labels and with the known faults of the test set."""
    people, errors, twins = (references[key] for key in ("people", "label_errors", "near_duplicates"))
    correlation = people["entropy_correlation"]
    display.result_text(
        f"human labels (CIFAR-10H): soft cross-entropy {people['soft_cross_entropy']:.4f} nats, lower bound "
        f"{people['soft_cross_entropy_floor']:.4f}; agreement with the majority "
        f"{with_interval(people['agreement_with_majority'])}, which agrees with the label on "
        f"{people['majority_agrees_with_label']['share']:.2%}; correlation of uncertainty (Spearman) "
        + ("none" if correlation is None else f"{correlation:.3f}")
    )
    display.result_text(
        f"label errors: accuracy {with_interval(errors['without_unconfirmed'])} without the "
        f"{errors['num_unconfirmed']} unconfirmed labels; on the "
        f"{errors['num_corrected']} with a confirmed correction the model sides with the "
        f"correction {errors['sides_with_correction']} times, with the label {errors['sides_with_label']}, "
        f"with neither {errors['sides_with_neither']}"
    )
    display.result_text(
        f"near-duplicates (ciFAIR): accuracy {twins['all']['share']:.2%}, without the {twins['num_images']} that have "
        f"a near-duplicate in the training set {with_interval(twins['without'])}, on them alone "
        f"{twins['only']['share']:.2%}"
    )


def with_interval(record: Mapping[str, Any]) -> str:
    """A fraction with its interval."""
    return f"{record['share']:.2%} ({display.interval(record['interval'])})"


def show_corruptions(corruptions: Mapping[str, Any]) -> None:
    """Print accuracies on corrupted images, a line per corruption, and what they cost."""
    display.result_text(f"{corruptions['what']}, in per cent:")
    rows = [(name, [*row, statistics.fmean(row)]) for name, row in corruptions["accuracy"].items()]
    rows.append(("mean", [*corruptions["severity_accuracy"], corruptions["mean_accuracy"]]))
    display.result_text(f"{'severity':<20}" + "".join(f"{name:>8}" for name in ("1", "2", "3", "4", "5", "mean")))
    for name, values in rows:
        display.result_text(f"{name:<20}" + "".join(f"{100 * value:>8.2f}" for value in values))
    display.result_text(
        f"mean accuracy {corruptions['mean_accuracy']:.2%}, without corruption {corruptions['clean_accuracy']:.2%}; "
        f"seed {corruptions['seed']}; {corruptions['num_sets_generated']} of 75 sets generated, "
        f"{corruptions['generation_seconds']:.0f} s to generate and load them, "
        f"{corruptions['prediction_seconds']:.0f} s of prediction, "
        f"{corruptions['cache_bytes'] / 1e6:,.0f} MB in the cache"
    )
