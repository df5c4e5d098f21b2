"""From a job to its run: the machine made ready, what can be refused refused, then one run or all folds."""

import shlex
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from cifar.data.cifar10 import Dataset
from cifar.errors import InputError, Remark
from cifar.kernels.build import using
from cifar.machine import choose_device, flush_denormals, keep_compiled, start_gpu
from cifar.models import build_model, is_of_timm
from cifar.models.own import check_trust
from cifar.pipeline.folds import job_of_fold, run_folds
from cifar.pipeline.job import Job, validates_on_seen
from cifar.pipeline.run import follow_run, run_one
from cifar.recipes import Recipe, with_fields
from cifar.recipes.choice import own_code
from cifar.runs import is_run, run_recipe
from cifar.training.augment import try_augmentation
from cifar.training.display import Display
from cifar.training.distributed import device_of, from_first, joined, received
from cifar.training.launch import place


@contextmanager
def prepared(job: Job) -> Iterator[Job]:
    """Make the machine ready for a job, and refuse what can be refused before any data are read or written.

    Yields:
        the job with its device. Its kernels are in force meanwhile.

    Raises:
        InputError: no such kernels or device, a network, weights or options that are not there, or code that is not
            trusted.
        WorldError: pretrained weights cannot be had, or another process of the training has ended.
    """
    with using(job.kernels) if job.kernels else nullcontext():
        if job.compile:
            keep_compiled()
        here, device = place(), choose_device(job.device)
        several = here is not None and here.processes > 1
        device = device_of(here, device) if here and several else device
        synchronised = job.sync_batchnorm and several and device == "cuda"
        if job.sync_batchnorm and not (synchronised or job.resume):
            raise InputError("Batch normalisation is synchronised over several GPUs: leave --sync-batchnorm out.")
        job = replace(job, device=device, sync_batchnorm=synchronised)
        if not job.resume:
            job = replace(job, recipe=with_size_of_run(job.recipe))
        if seen := validates_on_seen(job.recipe):
            sentence = f"{seen} was trained on images that this run validates on: validation accuracy will be too high."
            warnings.warn(sentence, Remark, stacklevel=2)
        own, augmentation = own_code(job.recipe), job.recipe.augment.own_augmentation
        for name in own:
            what = "augmentation" if name == augmentation else "network"
            check_trust(name, trust_code=job.trust_code or name in job.trusted, what=what)
        start_gpu(job.device, deterministic=job.deterministic)
        flush_denormals()  # before the network is built: PyTorch's threads inherit the mode
        if not job.resume:
            # Now, so that a wrong name or weights that cannot be had leave nothing behind.
            build_model(job.recipe, for_training=True, trust_code=True)
            if augmentation:
                try_augmentation(augmentation)
        with joined(resume=f"cifar train --resume {shlex.quote(str(job.folder))}"):
            yield replace(job, trust_code=True) if own else job


def with_size_of_run(recipe: Recipe) -> Recipe:
    """The recipe of a network of timm that starts from a run's weights, with the image size that they were trained at.

    By itself the network would take the size of other pretrained weights.
    """
    folder = Path(recipe.network.weights)
    if not (recipe.network.weights and is_of_timm(recipe) and is_run(folder)) or recipe.network.image_size:
        return recipe
    model = build_model(run_recipe(folder), pretrained=False)
    return with_fields(recipe, image_size=getattr(model, "image_size", 0))


def follow(open_data: Callable[[str], Dataset], *, display: Display) -> None:
    """Be one of the other processes of a training: do the job that the first one gives, whose run it alone writes.

    Args:
        open_data: gives the data set of a job's data, which the first process of this host has fetched.
        display: silent, but for a signal to stop.

    Raises:
        LostError: another process has ended.
        InputError: there is no GPU for this process.
    """
    here = place()
    assert here, "torchrun has started this process"
    with joined():
        job: Job = received()
        with using(job.kernels) if job.kernels else nullcontext():
            if job.compile:
                keep_compiled()
            job = replace(job, device=device_of(here, job.device), timing={})
            flush_denormals()
            dataset = open_data(job.data)
            jobs = [job_of_fold(job, fold) for fold in range(job.recipe.holdout.num_folds)]
            for one in jobs if job.cross_validate else [job]:
                if not follow_run(one, dataset, display=display):
                    return


def run_job(job: Job, dataset: Dataset, *, display: Display) -> dict[str, Any]:
    """Train, test and draw one run, or all folds of a cross-validation.

    Args:
        job: that `prepared` gave.
        dataset: that it is trained on.
        display: sees progress and results.

    Returns:
        what summary.json or crossval.json holds.

    Raises:
        Stopped, InputError, WorldError: as `run_one` and `run_folds`.
    """
    from_first(job)  # with the data here, the other processes find them
    run = run_folds if job.cross_validate else run_one
    return run(job, dataset, display=display)
