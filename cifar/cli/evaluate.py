"""`cifar evaluate`, and the tables that it shows."""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from cifar.cli import display
from cifar.cli.app import Device, TrustCode, app, check_split, check_views, open_data
from cifar.errors import InputError
from cifar.machine import choose_device

if TYPE_CHECKING:
    from cifar.models.foreign import Statistics


EXAMPLES = """Examples:

cifar evaluate runs/mine --references --corruptions

cifar evaluate resnet --data my-photos -o my-photos-evaluated

cifar evaluate --weights resnet20.pth -m resnet20 --normalise 0.485,0.456,0.406 0.229,0.224,0.225
"""


@app.command(rich_help_panel="Understand", epilog=EXAMPLES)
def evaluate(
    run: Annotated[
        str,
        typer.Argument(
            help="A run's folder; for images of one's own also a recorded run, an exported one or an ONNX file."
        ),
    ] = "",
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
    weights: Annotated[
        str,
        typer.Option(
            "--weights",
            help="In place of a run: a file of weights that others trained (state dict, safetensors), with -m; or "
            "timm:NAME, such as timm:hf_hub:owner/name.",
        ),
    ] = "",
    model: Annotated[
        str,
        typer.Option("-m", "--model", help="The network of --weights: resnet20, timm:NAME, package.module:function."),
    ] = "",
    normalise: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--normalise",
            metavar="MEAN STD",
            help="Of red, green, blue as --weights had them, such as 0.49,0.48,0.45 0.2,0.2,0.2; default CIFAR-10's.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="For --weights or own images: a folder for the files; default none."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON instead of tables.")] = False,
    device: Device = "",
    data: Annotated[
        str,
        typer.Option(
            "--data",
            help="A folder or archive of CIFAR-10, or `sample`; or images of one's own, in a folder for each class.",
        ),
    ] = "",
    trust_code: TrustCode = False,
) -> None:
    """Accuracy with interval, loss, calibration, figures per class; of a run, of others' weights, on own images.

    A run on CIFAR-10 gets evaluation.json and pictures in its folder.
    """
    check_split(split)
    check_views(tta)
    if bool(run) == bool(weights):
        raise InputError("Name a run's folder, or weights of others with --weights FILE -m MODEL.")
    if (model or normalise) and not weights:
        raise InputError("-m and --normalise belong to --weights: a run names its own network.")
    from cifar.pipeline.elsewhere import is_labelled_folder

    own_images = bool(data) and is_labelled_folder(Path(data))
    elsewhere = own_images or bool(weights)
    if elsewhere and (references or corruptions or split != "test"):
        raise InputError("--references, --corruptions and --split are of a run on CIFAR-10: leave them out.")
    if output and not elsewhere:
        raise InputError("-o is of --weights and of own images: the files of a run stay in its folder.")
    all_read = True
    with display.TerminalDisplay() as shown:
        if elsewhere:
            statistics = (numbers(normalise[0]), numbers(normalise[1])) if normalise else None
            evaluation, all_read = evaluate_without_run(
                run, weights, model, normalise=statistics, own_images=own_images, data=data, views=tta, device=device,
                output=output, trust_code=trust_code, shown=shown,
            )  # fmt: skip
        else:
            evaluation = evaluate_one_run(
                Path(run), data=data, split=split, views=tta, references=references, corruptions=corruptions,
                device=device, trust_code=trust_code, shown=shown,
            )  # fmt: skip
    if as_json:
        evaluation.pop("recipe_views", None)
        print(json.dumps(evaluation, indent=2))
    else:
        show_evaluation(evaluation)
        show_files(evaluation, output if elsewhere else Path(run))
    if not all_read:
        raise typer.Exit(1)


def numbers(text: str) -> tuple[float, float, float]:
    """Three numbers of --normalise, of red, green and blue.

    Raises:
        InputError: they are not three numbers.
    """
    try:
        red, green, blue = map(float, text.split(","))
    except ValueError:
        raise InputError(f"--normalise {text}: give three numbers, such as 0.491,0.482,0.447.") from None
    return red, green, blue


def evaluate_one_run(
    folder: Path, *, data: str, split: str, views: str, references: bool, corruptions: bool, device: str,
    trust_code: bool, shown: display.TerminalDisplay,
) -> dict[str, Any]:  # fmt: skip
    """Evaluate a run on CIFAR-10 as its flags say; gives what `evaluate_run` does, and "recipe_views"."""
    from cifar.pipeline.evaluation import evaluate_run
    from cifar.pipeline.job import data_to_reopen
    from cifar.runs import CROSSVAL, run_recipe

    if (folder / CROSSVAL).exists():
        raise InputError(f"{folder} holds a cross-validation: evaluate one of its folds, such as {folder / 'fold-0'}.")
    recipe = run_recipe(folder)
    device = choose_device(device)
    dataset = open_data(data or data_to_reopen(folder))
    purpose = "cifar evaluate" + f" --tta {views}" * bool(views) + " --references" * references
    return evaluate_run(
        folder, dataset, split=split, purpose=purpose + " --corruptions" * corruptions, device=device, display=shown,
        views=views, trust_code=trust_code, references=references, corruptions=corruptions,
    ) | {"recipe_views": recipe.tta.views}  # fmt: skip


def evaluate_without_run(
    run: str, weights: str, model: str, *, normalise: "Statistics | None", own_images: bool, data: str, views: str,
    device: str, output: Path | None, trust_code: bool, shown: display.TerminalDisplay,
) -> tuple[dict[str, Any], bool]:  # fmt: skip
    """Evaluate a run's network or others' weights, on own images or the test images; and whether all were read."""
    from cifar.pipeline.elsewhere import evaluate_own_images, evaluate_test_images, foreign_classifier
    from cifar.serving.classifier import load_model

    if weights:
        classifier = foreign_classifier(weights, model, normalise=normalise, device=device)
    else:
        classifier = load_model(run, device=device, trust_code=trust_code)
    name = f"{Path(weights).name} ({model or 'timm'})" if weights else Path(run).name
    how: dict[str, Any] = {"name": name, "views": views, "output": output, "display": shown}
    if own_images:
        return evaluate_own_images(classifier, Path(data), **how)
    return evaluate_test_images(classifier, open_data(data), **how), True


def show_evaluation(evaluation: Mapping[str, Any]) -> None:
    """Print the figures of an evaluation; its "recipe_views" is the recipe's TTA, where there is a recipe."""
    display.result_text(
        f"{display.sample_prefix(evaluation)}{evaluation['split']}: accuracy {evaluation['accuracy']:.2%} of "
        f"{evaluation['num_images']:,} images, 95 % interval {display.interval(evaluation['interval'])}; "
        f"loss {evaluation['loss']:.4f} nats"
    )
    display.result_text(views_line(evaluation, recipe_views=evaluation.get("recipe_views", evaluation["views"])))
    table = Table("class", *(Column(name, justify="right") for name in ("precision", "recall", "F1", "images")))
    for row in evaluation["per_class"]:
        rates = (f"{row['precision']:.2%}", f"{row['recall']:.2%}", f"{row['f1']:.4f}")
        table.add_row(row["class"], *(rates if row["support"] else ("", "", "")), f"{row['support']:,}")
    display.stdout.print(table)
    show_calibration(evaluation)
    if "references" in evaluation:
        show_references(evaluation["references"])
    if "corruptions" in evaluation:
        show_corruptions(evaluation["corruptions"])


def show_files(evaluation: Mapping[str, Any], folder: Path | None) -> None:
    """Print which files an evaluation wrote into a folder; None is none."""
    if not folder:
        display.say("Nothing was written: -o FOLDER keeps figures, predictions and pictures.")
        return
    from cifar.runs import evaluation_name

    files = ["evaluation.json", "predictions.npz", "confusion.png", "reliability.png", "mistakes.png"]
    files += ["references.json"] * ("references" in evaluation)
    files += ["corruptions.json", "corruptions.png"] * ("corruptions" in evaluation)
    if "recipe_views" in evaluation:
        which = {name: evaluation[name] for name in ("split", "views", "recipe_views")}
        files = [evaluation_name(name, **which) for name in files]
    files += ["predictions.csv"] * (folder / "predictions.csv").exists()
    display.result_text(f"written to {folder}: {', '.join(files)}")


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
    scaling = evaluation["temperature_scaling"]  # of own images: as it was fitted by the run
    if scaling:
        before, after = scaling["before"], scaling["after"]
        fitted = (
            f"{scaling['num_fitted']:,} validation images" if "num_fitted" in scaling else "the run's validation images"
        )
        display.result_text(
            f"at temperature {scaling['temperature']:.3f}, fitted on {fitted}: "
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
    if corruptions.get("not_comparable"):
        display.result_text(f"not comparable with published figures: {', '.join(corruptions['not_comparable'])}")
    display.result_text(
        f"mean accuracy {corruptions['mean_accuracy']:.2%}, without corruption {corruptions['clean_accuracy']:.2%}; "
        f"seed {corruptions['seed']}; {corruptions['num_sets_generated']} of 75 sets generated, "
        f"{corruptions['generation_seconds']:.0f} s to generate and load them, "
        f"{corruptions['prediction_seconds']:.0f} s of prediction, "
        f"{corruptions['cache_bytes'] / 1e6:,.0f} MB in the cache"
    )
