"""The names of the files in a run folder."""

import re
from pathlib import PurePath

RECIPE, METRICS, WEIGHTS, CHECKPOINT = "recipe.json", "metrics.csv", "model.safetensors", "last.ckpt"
SUMMARY, EVALUATION, PREDICTIONS, CROSSVAL = "summary.json", "evaluation.json", "predictions.npz", "crossval.json"
REFERENCES, CORRUPTIONS, REPORT, CARD = "references.json", "corruptions.json", "report.html", "card.md"
ONNX, ONNX_INT8, EXPORT, EXPORTED = "model.onnx", "model-int8.onnx", "export.json", "exported"
CHECKSUMS = "checksums.json"
STUDY, JOURNAL, CLAIMS = "study.json", "journal.log", "claims"  # of a study, whose runs lie in its folder
MISTAKES = "mistakes.png"
CURVES, TRAIN_BATCH, VAL_BATCH = "curves.png", "train_batch.png", "val_batch.png"
OF_TRAINING = (CURVES, TRAIN_BATCH, VAL_BATCH)
RESULT_PICTURES = ("confusion.png", "reliability.png", MISTAKES)
PICTURES = (*OF_TRAINING, *RESULT_PICTURES, "corruptions.png")
LOGS = ("tensorboard", "wandb")  # folders
MARKERS = (SUMMARY, CROSSVAL)  # one of them makes a folder a run or a cross-validation
# Of every evaluation; those other than the result's have its split and TTA in their names.
OF_EVALUATIONS = (EVALUATION, PREDICTIONS, REFERENCES, CORRUPTIONS, *RESULT_PICTURES, "corruptions.png")


def evaluation_name(name: str, *, split: str, views: str, recipe_views: str) -> str:
    """The name of a file of an evaluation: its own for each split and TTA, the plain one for the run's result.

    Args:
        name: the plain one, such as evaluation.json.
        split: test or validation.
        views: TTA of the evaluation; recipe_views: that of the recipe, which makes the result.
    """
    if (split, views) == ("test", recipe_views):
        return name
    path = PurePath(name)
    return f"{path.stem}-{split}-{views}{path.suffix}"


def plain_name(name: str) -> str:
    """The plain name of a file of a run: evaluation.json for evaluation-test-shift.json."""
    path = PurePath(name)
    plain = re.sub(r"-(test|validation)-(none|mirror|shift)$", "", path.stem) + path.suffix
    return plain if plain in OF_EVALUATIONS else name
