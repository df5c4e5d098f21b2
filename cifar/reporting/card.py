"""`cifar card`: what a stranger has to know of a trained network, in Markdown under the header that the hub reads.

After Mitchell et al. 2019, "Model Cards for Model Reporting".
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar.data.split import CLASSES
from cifar.errors import InputError
from cifar.models import is_pretrained
from cifar.recipes import Recipe, from_mapping
from cifar.reporting.markdown import Written, block, code, plain, shell
from cifar.reporting.records import Record, read_record, showing
from cifar.reporting.report import changed_fields, duration, interval, machine_of, percent, sample_note
from cifar.runs import CROSSVAL, EVALUATION, PICTURES

if TYPE_CHECKING:
    from jinja2 import Template

CAPTIONS = {
    "curves.png": "Loss, accuracy and learning rate over the epochs",
    "train_batch.png": "Images as it was trained on",
    "val_batch.png": "Its predictions of images that were held out",
    "confusion.png": "Counts of true against predicted classes",
    "reliability.png": "Accuracy against confidence",
    "mistakes.png": "Mistakes",
    "corruptions.png": "Accuracy on corrupted images",
}


def model_card(folder: Path, *, repository: str = "", pictures: bool = True) -> str:
    """Return the whole card of a run: header and text.

    Args:
        folder: of a tested run.
        repository: owner/name on the hub, if it has or will have one.
        pictures: whether the card will lie beside the run's pictures, and may show them.

    Raises:
        InputError: no run, one without a test result, or a cross-validation.
        WorldError: a file is damaged.
    """
    if (folder / CROSSVAL).exists():
        raise InputError(f"{folder} holds a cross-validation: name one of its folds, such as {folder / 'fold-0'}.")
    record = read_record(folder, name=folder.resolve().name)
    shown = [name for name in PICTURES if pictures and (folder / name).exists()]
    with showing(folder):
        header = card_header(record, repository=repository)
    return f"---\n{header}\n---\n\n{card_text(record, repository, shown)}"


def card_header(record: Record, *, repository: str = "") -> str:
    """Return the metadata in YAML, without the lines of dashes around it.

    A run on the bundled sample has no result there, since the hub would list it beside those on CIFAR-10.

    Args:
        record: of a tested run.
        repository: as of `model_card`.
    """
    from huggingface_hub import EvalResult, ModelCardData

    summary, sample = record.summary, bool(sample_note([record]))
    licence, base = licence_and_base(from_mapping(summary["recipe"], origin=record.name))
    results = None if sample else [
        EvalResult(
            task_type="image-classification", task_name="Image classification", dataset_type="cifar10",
            dataset_name="CIFAR-10", dataset_split="test", metric_type="accuracy", metric_name="Accuracy",
            metric_value=summary["test_accuracy"],
        )
    ]  # fmt: skip
    data = ModelCardData(
        license=licence,
        license_name="see-the-licence-section" if licence == "other" else None,
        library_name="cifar",
        pipeline_tag="image-classification",
        tags=["image-classification", "cifar10", "pytorch", summary["model"], *(["sample"] if sample else [])],
        datasets=["cifar10"],
        metrics=["accuracy"],
        base_model=base or None,
        model_name=repository.rpartition("/")[2] or record.name,
        eval_results=results,
    )
    if results is None:
        del data.model_name  # which belongs to the results
    header: str = data.to_yaml()
    return header


def card_text(record: Record, repository: str = "", pictures: Sequence[str] = ()) -> str:
    """Return the card under its header: Markdown that begins with its title.

    Args:
        record: of a tested run.
        repository: as of `model_card`.
        pictures: names of the files to show.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("cifar", "reporting"), autoescape=False, undefined=StrictUndefined, finalize=plain,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {
        "percent": percent,
        "interval": interval,
        "duration": duration,
        "block": block,
        "code": code,
        "json": lambda value: Written(json.dumps(value)),
        "shell": shell,
    }
    with showing(record.folder):
        return render(record, environment.get_template("card.md.jinja"), repository=repository, pictures=pictures)


def render(record: Record, template: "Template", *, repository: str, pictures: Sequence[str]) -> str:
    """Return the text of the card; arguments as of `card_text`."""
    summary = record.summary
    recipe = from_mapping(summary["recipe"], origin=record.name)
    licence, base = licence_and_base(recipe)
    evaluation = record.evaluations.get(EVALUATION)
    text = template.render(
        title=repository or record.name,
        repository=repository,
        run=f"{record.folder}",
        note=sample_note([record]),
        summary=summary,
        recipe=recipe,
        changed=changed_fields(summary["recipe"]),
        evaluation=evaluation,
        calibration=calibration_rows(evaluation) if evaluation else [],
        machine=machine_of(summary),
        classes=CLASSES,
        pretrained=is_pretrained(recipe),
        own_module=recipe.model.partition(":")[0] if is_custom(recipe) else "",
        licence=licence,
        base=base,
        pictures={name: CAPTIONS[name] for name in pictures},
    )
    return text.encode("utf-8", "backslashreplace").decode()  # names of files may be no text


def is_custom(recipe: Recipe) -> bool:
    """Return whether the network is a function of the person who trained it."""
    return ":" in recipe.model and not recipe.model.startswith("timm:")


def licence_and_base(recipe: Recipe) -> tuple[str, str]:
    """Return the licence of a run's weights as the hub writes it, and the repository of its pretrained weights.

    Weights trained from random ones are under this project's licence; those trained from pretrained ones are under the
    licence of these, "other" where it is not known.

    Args:
        recipe: of the run.

    Returns:
        licence and repository; the latter is "" where there is none.
    """
    if is_custom(recipe):
        return "other", ""
    if not is_pretrained(recipe):
        return "mit", ""
    if recipe.network.weights:  # a file, or those of an installed package
        return "other", ""
    from cifar.models.pretrained import PREVIT
    from cifar.models.repair import repair_torchvision

    repair_torchvision()
    import timm

    config = timm.get_pretrained_cfg(recipe.network.model_name or PREVIT)
    return config.license or "other", (config.hf_hub_id or "").partition("@")[0]


def calibration_rows(evaluation: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return names and values of the calibration figures that evaluation.json holds; older ones have none."""
    names = {
        "calibration_error": "calibration error, 15 bins",
        "adaptive_calibration_error": "calibration error, 15 adaptive bins",
    }
    rows = [(words, percent(evaluation[key])) for key, words in names.items() if key in evaluation]
    if "brier" in evaluation:
        rows.append(("Brier score (0 is perfect, 2 the worst)", f"{evaluation['brier']:.4f}"))
    scaling = evaluation.get("temperature_scaling")
    if scaling:
        words = (
            f"calibration error at temperature {scaling['temperature']:.3f}, fitted on {scaling['fitted_on']} images"
        )
        rows.append((words, percent(scaling["after"]["calibration_error"])))
    return rows
