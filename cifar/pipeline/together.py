"""What the other processes of a training do while the first one holds the run folder: train, and predict what it sends.

They read and write no run folder, and open no test split: weights and images of a prediction come from the first.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from cifar.evaluation.predict import predict
from cifar.models import build_model
from cifar.pipeline.job import Job
from cifar.training.distributed import computed_together, from_first, processes, received


def predict_together(
    model: nn.Module, images: Tensor, *, device: str, progress: Callable[[int, int], None], **options: Any
) -> Tensor:
    """What `predict` returns, computed in all processes, each its part of the images.

    Args:
        model, images, device, progress, options: as of `predict`.
    """
    if processes() == 1:
        return predict(model, images, device=device, progress=progress, **options)
    from_first((model.cpu().state_dict(), images, options))

    def show(done: int, total: int) -> None:
        progress(done * len(images) // total, len(images))

    return computed_together(images, lambda part: predict(model, part, device=device, progress=show, **options))


def end_of_predictions() -> None:
    """Tell the other processes that there is nothing more to predict for this run."""
    from_first(None)


def help_to_predict(job: Job) -> None:
    """Predict parts of what the first process sends, until it says that this was all."""
    model = build_model(job.recipe, pretrained=False, trust_code=True)
    while wanted := received():
        weights, images, options = wanted
        model.load_state_dict(weights)
        computed_together(images, lambda part: predict(model, part, device=job.device, **options))  # noqa: B023
