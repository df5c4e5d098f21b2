"""A run from data to pictures: train → predict → metrics → write → draw; one run, or all folds of a cross-validation.

The only code that knows all rooms.
"""

from cifar.pipeline.evaluation import evaluate_run
from cifar.pipeline.folds import run_folds
from cifar.pipeline.job import Job, Stopped
from cifar.pipeline.run import run_one, train_run

__all__ = ["Job", "Stopped", "evaluate_run", "run_folds", "run_one", "train_run"]
