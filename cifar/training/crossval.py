"""Cross-validation: stratified folds of the 50,000 training images, a run folder each."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cifar.evaluation.intervals import mean_fraction_interval
from cifar.recipes import Recipe, with_fields


def fold_recipe(recipe: Recipe, fold: int) -> Recipe:
    """The recipe of one fold: validated on that fold, trained from its own seed (the recipe's plus the fold)."""
    return with_fields(recipe, fold=fold, seed=recipe.seed + fold)


def fold_folder(folder: Path, fold: int) -> Path:
    """The run folder of one fold."""
    return folder / f"fold-{fold}"


def summarise_folds(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Each fold's accuracies with their mean, standard deviation and 95 % interval, JSON-ready.

    The interval is Student's over the folds, at 95 %. Folds share most of their training images, and all their test
    images, so it is too narrow as a statement on new training sets or test images (Bengio and Grandvalet 2004: there is
    no unbiased estimate of that variance); it is what the field reports, and is not called a 95 % interval.

    Args:
        summaries: of the folds' runs, tested.
    """
    result: dict[str, Any] = {"num_folds": len(summaries)}
    for split in ("validation", "test"):
        accuracies = [float(summary[f"{split}_accuracy"]) for summary in summaries]
        mean, std, interval = mean_fraction_interval(accuracies)
        result[split] = {"folds": accuracies, "mean": mean, "std": std, "interval": list(interval)}
    return result
