"""All folds of a cross-validation, and the ensemble of their predictions."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from cifar.data.cifar10 import Dataset
from cifar.evaluation.evaluate import evaluate
from cifar.files import json_text
from cifar.pipeline.evaluation import evaluate_run
from cifar.pipeline.job import Job, Stopped, check_data, held
from cifar.pipeline.run import run_one
from cifar.recipes import to_mapping
from cifar.runs import (
    CROSSVAL,
    EVALUATION,
    PREDICTIONS,
    first_files,
    is_run,
    read_json,
    read_predictions,
    write_files,
)
from cifar.training.crossval import fold_folder, fold_recipe, summarise_folds
from cifar.training.display import Display


def run_folds(job: Job, dataset: Dataset, *, display: Display) -> dict[str, Any]:
    """Train and test every fold that is not tested yet, and write crossval.json.

    Args:
        job: of a cross-validation.
        dataset: that it is trained on.
        display: sees progress and each fold's result.

    Returns:
        what crossval.json holds.

    Raises:
        Stopped: names the cross-validation's folder, from which it resumes.
        InputError: it began with other data.
        WorldError: as `run_one`.
    """
    result: dict[str, Any] = {"finished": False, "data": dataset.name, "data_sha256": dataset.sha256}
    result["recipe"] = to_mapping(job.recipe)
    with held(job) as create:
        if job.resume:
            check_data(job.folder, read_json(job.folder / CROSSVAL), dataset)
        else:
            create(first_files(job.recipe, result, marker=CROSSVAL))
        summaries, fold_probs, labels = [], [], torch.empty(0)
        for fold in range(job.recipe.holdout.num_folds):
            display.start_fold(fold, job.recipe.holdout.num_folds)
            fold_job = dataclasses.replace(job_of_fold(job, fold), timing={} if fold else job.timing)
            fold_job = dataclasses.replace(fold_job, resume=job.resume and is_run(fold_job.folder))
            try:
                summaries.append(run_one(fold_job, dataset, display=display, fold=fold))
            except Stopped:
                raise Stopped(job.folder) from None
            probs, labels = predictions_on_test(fold_job, dataset, display=display)
            fold_probs.append(probs)
        # An ensemble of the folds: its accuracy is not the mean of theirs.
        ensemble = evaluate(torch.stack(fold_probs).mean(dim=0), labels, split="test")
        result |= {"finished": True} | summarise_folds(summaries)
        result["test_of_averaged_probabilities"] = {key: ensemble[key] for key in ("accuracy", "interval", "loss")}
        result["seconds"] = sum(summary["seconds"] for summary in summaries)
        write_files(job.folder, {CROSSVAL: json_text(result)})
        return result


def job_of_fold(job: Job, fold: int) -> Job:
    """The job of one fold of a cross-validation; folds count from 0."""
    return dataclasses.replace(job, recipe=fold_recipe(job.recipe, fold), folder=fold_folder(job.folder, fold))


def predictions_on_test(job: Job, dataset: Dataset, *, display: Display) -> tuple[Tensor, Tensor]:
    """Probabilities [N, 10] of a tested run on the test split with its own TTA, and labels [N].

    They are in the run folder, unless somebody removed them: then it is evaluated again, and counted.

    Args:
        job, dataset: of the run.
        display: sees progress.
    """
    if not all((job.folder / name).exists() for name in (EVALUATION, PREDICTIONS)):
        evaluate_run(
            job.folder, dataset, split="test", purpose="ensemble of the folds", device=job.device, display=display,
            trust_code=job.trust_code,
        )  # fmt: skip
    probs, labels, _ = read_predictions(job.folder)
    return torch.from_numpy(probs), torch.from_numpy(labels)
