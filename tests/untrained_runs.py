"""Run folders with random weights, for tests that need a network and no training."""

from pathlib import Path

import torch

from cifar.models import build_model
from cifar.recipes import recipe_for, to_json, with_settings
from cifar.runs import RECIPE, WEIGHTS, weights_bytes, write_files


def make_untrained(folder: Path, model: str, *settings: str) -> Path:
    """Recipe and weights of a network, without anything else that a run leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = with_settings(recipe_for(model), settings)
    torch.manual_seed(0)
    model = build_model(recipe, trust_code=True)
    write_files(folder, {RECIPE: to_json(recipe), WEIGHTS: weights_bytes(model.state_dict())})
    return folder


def flat() -> torch.nn.Module:
    """A network of a person's own, which looks at no place in particular."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
