"""Muon (Jordan et al. 2024): SGD whose momentum, seen as a matrix, is replaced by the nearest orthogonal one."""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic; found by its author to raise small singular values fastest


class Muon(Optimizer):
    """Muon for the groups that say so, AdamW for the others.

    A filter bank [out, in, height, width] is the matrix [out, in·height·width]. Updates are scaled to the root mean
    square that AdamW's have (Liu et al. 2025, "Muon is scalable"), so that one rate serves both. Decay is decoupled.

    Args:
        groups: of parameters, each with "lr", "weight_decay" and "orthogonalise": whether Muon takes it; its
            parameters must then have two dimensions or more.
        momentum: of Muon, in Nesterov's form.
        steps: iterations of Newton and Schulz.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float, momentum: float = 0.95, steps: int = 5) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0, "momentum": momentum, "steps": steps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        assert closure is None
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["orthogonalise"]:
                self.step_muon(parameters, group)
            else:
                self.step_adamw(parameters, group)

    def step_muon(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Parameters of one shape are orthogonalised together: many small products cost more than a few large ones."""
        by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for parameter in parameters:
            by_shape[parameter.shape].append(parameter)
        for shape, same in by_shape.items():
            updates = []
            for parameter in same:
                assert parameter.grad is not None
                average = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                average.lerp_(parameter.grad, 1 - group["momentum"])
                updates.append(parameter.grad.lerp(average, group["momentum"]).flatten(1))  # [R, C]
            rows, columns = updates[0].shape
            scale = 0.2 * math.sqrt(max(rows, columns))
            for parameter, update in zip(same, orthogonalise(torch.stack(updates), steps=group["steps"]), strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.view(shape), alpha=-group["lr"] * scale)

    def step_adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """The textbook's constants."""
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.zeros(()),
                    "mean": torch.zeros_like(parameter),
                    "square": torch.zeros_like(parameter),
                }
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            parameters,
            [parameter.grad for parameter in parameters],  # type: ignore[misc]
            [state["mean"] for state in states],
            [state["square"] for state in states],
            [],
            [state["step"] for state in states],
            foreach=True, amsgrad=False, beta1=0.9, beta2=0.999, eps=1e-8, maximize=False,
            lr=group["lr"], weight_decay=group["weight_decay"],
        )  # fmt: skip


def orthogonalise(matrices: Tensor, *, steps: int) -> Tensor:
    """Matrices with the same singular vectors and singular values near 1, by an iteration of Newton and Schulz.

    Args:
        matrices: float [K, R, C].
        steps: 5 bring singular values from 0.01 times the norm or more to between 0.7 and 1.2.

    Returns:
        float [K, R, C] of the same type; on a GPU computed in bf16, which the iteration bears.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x: Tensor = matrices.mT if tall else matrices  # the smaller side squared: [K, R, R], R ≤ C
    x = x.to(torch.bfloat16 if x.is_cuda else x.dtype)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.mT if tall else x
    return result.to(matrices.dtype)
