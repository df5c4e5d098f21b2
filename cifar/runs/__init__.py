"""The run folder on disk: the interface between training and everything after it, and the only code that writes one.

    recipe.json          the Recipe, whole: enough to repeat the run
    metrics.csv          a row per epoch
    model.safetensors    the best weights (by validation accuracy), as the model's own state dict
    last.ckpt            everything needed to continue exactly
    summary.json         state and result: accuracies as fractions, seeds, seconds, machine, versions, commit, data
    checksums.json       SHA-256 of these files and those of evaluations
    curves.png           drawn from metrics.csv
    train_batch.png, val_batch.png    images as they are trained on, and predictions of some that were held out
    evaluation.json, predictions.npz, confusion.png, reliability.png, mistakes.png    of the result's evaluation; those
                         of another split or TTA have it in their names: evaluation-test-shift.json
    references.json      against human labels and known faults of the test set, by `cifar evaluate --references`
    corruptions.json, corruptions.png    on corrupted test images, by `cifar evaluate --corruptions`
    report.html          all of this on a page, by `cifar report`
    card.md              written by `cifar card`; `cifar push` gives it to the hub as README.md
    model.onnx, model-int8.onnx, export.json, exported/    written by `cifar export`

A study, many runs of a recipe, has a folder with study.json, in which its runs lie (`studies.py`).

A run's state, in summary.json, is "unfinished", "trained" (the best weights are final) or "tested" (so is the result).
A folder with summary.json is a run, one with crossval.json a cross-validation; both are created whole (`creation.py`).
Whoever writes a run holds its folder; every file is flushed to the disk before it takes its name, and is verified and
checked against its schema (`schema.py`) when it is read.
"""

from cifar.runs.creation import clear, new_run
from cifar.runs.names import (
    CARD,
    CHECKPOINT,
    CHECKSUMS,
    CLAIMS,
    CORRUPTIONS,
    CROSSVAL,
    CURVES,
    EVALUATION,
    EXPORT,
    EXPORTED,
    JOURNAL,
    METRICS,
    MISTAKES,
    ONNX,
    ONNX_INT8,
    PICTURES,
    PREDICTIONS,
    RECIPE,
    REFERENCES,
    REPORT,
    RESULT_PICTURES,
    STUDY,
    SUMMARY,
    TRAIN_BATCH,
    VAL_BATCH,
    WEIGHTS,
    evaluation_name,
)
from cifar.runs.results import (
    metrics_text,
    predictions_bytes,
    read_metrics,
    read_predictions,
    read_temperatures,
    write_evaluation,
)
from cifar.runs.store import (
    Content,
    checksum,
    open_run,
    read_json,
    remove_file,
    write_file,
    write_files,
)
from cifar.runs.studies import (
    check_free_for_study,
    claimed,
    expand_studies,
    held_queue,
    is_study,
    new_study,
    read_study,
    run_name,
    study_runs,
    tested_runs,
)
from cifar.runs.summary import (
    CHANGEABLE,
    change_recipe,
    check_begun,
    check_run,
    check_same,
    count_test_evaluation,
    data_of_run,
    first_files,
    how_computed,
    is_run,
    recipe_to_resume,
    run_recipe,
    run_state,
    update_summary,
    wandb_id,
)
from cifar.runs.weights import (
    absent_weights,
    checkpoint_writer,
    load_network,
    read_checkpoint,
    tensor_bytes,
    weights_bytes,
)

__all__ = [
    "CARD", "CHANGEABLE", "CHECKPOINT", "CHECKSUMS", "CLAIMS", "CORRUPTIONS", "CROSSVAL", "CURVES", "EVALUATION",
    "EXPORT", "EXPORTED", "JOURNAL", "METRICS", "MISTAKES", "ONNX", "ONNX_INT8", "PICTURES", "PREDICTIONS", "RECIPE",
    "REFERENCES", "REPORT", "RESULT_PICTURES", "STUDY", "SUMMARY", "TRAIN_BATCH", "VAL_BATCH", "WEIGHTS", "Content",
    "absent_weights", "change_recipe", "check_begun", "check_free_for_study", "check_run", "check_same",
    "checkpoint_writer", "checksum", "claimed", "clear", "count_test_evaluation", "data_of_run", "evaluation_name",
    "expand_studies", "first_files", "held_queue", "how_computed", "is_run", "is_study", "load_network", "metrics_text",
    "new_run", "new_study", "open_run", "predictions_bytes", "read_checkpoint", "read_json", "read_metrics",
    "read_predictions", "read_study", "read_temperatures", "recipe_to_resume", "remove_file", "run_name", "run_recipe",
    "run_state", "study_runs", "tensor_bytes", "tested_runs", "update_summary", "wandb_id", "weights_bytes",
    "write_evaluation", "write_file", "write_files",
]  # fmt: skip
