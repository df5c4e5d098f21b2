"""Muon (Jordan et al. 2024): SGD whose momentum, seen as a matrix, is replaced by the nearest orthogonal one."""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from cifar.training.distributed import shared_out

MOST_PADDED = 2**22  # elements of matrices that are worth padding; larger ones keep a GPU busy as they are
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic; found by its author to raise small singular values fastest


class Muon(Optimizer):
    """Muon for the groups that say so, AdamW or SGD for the others.

    A filter bank [out, in, height, width] is the matrix [out, in·height·width]. A group's "kind" is one of

    - "muon": updates scaled to the root mean square that AdamW's have (Liu et al. 2025, "Muon is scalable"), so that
      one learning rate serves both; weight decay is decoupled;
    - "muon-unit": the norm of every filter bank is set to √out before a step, which needs no weight decay, and updates
      are not scaled (Jordan 2024, airbench94_muon);
    - "adamw", "sgd" (with Nesterov momentum and an L2 term).

    Args:
        groups: of parameters, each with "kind", "lr", "weight_decay" and, except for adamw, "momentum"; parameters of
            Muon must have two dimensions or more.
        lr: of groups that have none.
        steps: Newton–Schulz iterations.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float, steps: int = 5) -> None:
        # "fused" tells load_state_dict to bring AdamW's counts of steps to the device.
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0, "momentum": 0.95, "steps": steps, "fused": True})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        assert closure is None
        updates = {"muon": self.step_muon, "muon-unit": self.step_muon, "adamw": self.step_adamw, "sgd": self.step_sgd}
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                updates[group["kind"]](parameters, group)

    def step_muon(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Average the gradients, orthogonalise them, and move the parameters."""
        lr, momentum, is_unit = group["lr"], group["momentum"], group["kind"] == "muon-unit"
        gradients: Any = [parameter.grad for parameter in parameters]
        averages: Any = [self.momentum_of(parameter) for parameter in parameters]
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        matrices = [mean.flatten(1) for mean in torch._foreach_lerp(gradients, averages, momentum)]  # [R, C] each
        on_device = isinstance(lr, Tensor)
        padded = on_device and padded_size(matrices) <= MOST_PADDED
        orthogonalised = orthogonalise_padded if padded else orthogonalise_by_shape
        updates = shared_out(matrices, lambda some: orthogonalised(some, steps=group["steps"]))
        updates = [update.view(one.shape) for update, one in zip(updates, parameters, strict=True)]
        scales = [1.0 if is_unit else 0.2 * math.sqrt(max(matrix.shape)) for matrix in matrices]
        if is_unit:
            norms = torch._foreach_norm(parameters)
            factors = [math.sqrt(len(one)) / norm for one, norm in zip(parameters, norms, strict=True)]
            torch._foreach_mul_(parameters, factors)
        else:
            torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
        if on_device:
            torch._foreach_mul_(updates, scales)
            torch._foreach_mul_(updates, -lr)
            torch._foreach_add_(parameters, updates)
        else:
            for parameter, update, scale in zip(parameters, updates, scales, strict=True):
                parameter.add_(update, alpha=-lr * scale)

    def momentum_of(self, parameter: Tensor) -> Tensor:
        """The running average of a parameter's gradients, zero before its first step."""
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        average: Tensor = state["momentum"]
        return average

    def step_adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """AdamW with its usual constants."""
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device),
                    "mean": torch.zeros_like(parameter),
                    "square": torch.zeros_like(parameter),
                }
        states = [self.state[parameter] for parameter in parameters]
        on_device = isinstance(group["lr"], Tensor)  # where the fused kernel reads it; the other one would ask for it
        adamw(
            parameters,
            [parameter.grad for parameter in parameters],  # type: ignore[misc]
            [state["mean"] for state in states],
            [state["square"] for state in states],
            [],
            [state["step"] for state in states],
            foreach=not on_device, fused=on_device, amsgrad=False, beta1=0.9, beta2=0.999, eps=1e-8, maximize=False,
            lr=group["lr"], weight_decay=group["weight_decay"],
        )  # fmt: skip

    def step_sgd(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """SGD with Nesterov momentum."""
        on_device = isinstance(group["lr"], Tensor)  # as in `step_adamw`
        sgd(
            parameters,
            [parameter.grad for parameter in parameters],  # type: ignore[misc]
            [self.momentum_of(parameter) for parameter in parameters],
            foreach=not on_device, fused=on_device, nesterov=True, maximize=False, dampening=0.0,
            momentum=group["momentum"], lr=group["lr"], weight_decay=group["weight_decay"],
        )  # fmt: skip


def orthogonalise_by_shape(matrices: list[Tensor], *, steps: int) -> list[Tensor]:
    """Orthogonalise matrices of one shape together: many small products cost more than a few large ones."""
    by_shape: dict[torch.Size, list[int]] = defaultdict(list)
    for index, matrix in enumerate(matrices):
        by_shape[matrix.shape].append(index)
    results = list(matrices)
    for indices in by_shape.values():
        together = orthogonalise(torch.stack([matrices[index] for index in indices]), steps=steps)
        for index, result in zip(indices, together, strict=True):
            results[index] = result
    return results


def orthogonalise_padded(matrices: list[Tensor], *, steps: int) -> list[Tensor]:
    """Orthogonalise all matrices together, padded with zeros, which stay zero: a GPU starts few products then."""
    wide = [matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT for matrix in matrices]
    rows, columns = (max(matrix.shape[side] for matrix in wide) for side in (0, 1))
    together = matrices[0].new_zeros(len(matrices), rows, columns)
    parts = [padded[: matrix.shape[0], : matrix.shape[1]] for padded, matrix in zip(together, wide, strict=True)]
    torch._foreach_copy_(parts, wide)
    results = orthogonalise(together, steps=steps)
    parts = [padded[: matrix.shape[0], : matrix.shape[1]] for padded, matrix in zip(results, wide, strict=True)]
    return [
        part if matrix.shape[0] <= matrix.shape[1] else part.mT for part, matrix in zip(parts, matrices, strict=True)
    ]


def padded_size(matrices: list[Tensor]) -> int:
    """Elements of all matrices, padded to one shape."""
    return len(matrices) * max(min(one.shape) for one in matrices) * max(max(one.shape) for one in matrices)


def orthogonalise(matrices: Tensor, *, steps: int) -> Tensor:
    """Matrices with the same singular vectors and singular values near 1, by Newton–Schulz iterations.

    Args:
        matrices: float [K, R, C]; one of zeros stays so.
        steps: 5 bring singular values of at least 0.01 times the norm to between 0.7 and 1.2.

    Returns:
        float [K, R, C] of the same type; on a GPU computed in bf16, which is accurate enough.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x: Tensor = matrices.mT if tall else matrices  # the smaller side squared: [K, R, R], R ≤ C
    x = x.to(torch.bfloat16 if x.is_cuda else x.dtype)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    # Squares of small singular values vanish in bf16.
    by_squares = x.dtype != torch.bfloat16 and 2 * x.shape[1] <= x.shape[2]
    x = iterate_squares(x, steps=steps) if by_squares else iterate(x, steps=steps)
    result: Tensor = x.mT if tall else x
    return result.to(matrices.dtype)


def iterate(x: Tensor, *, steps: int) -> Tensor:
    """The Newton–Schulz iteration as it is written: x [K, R, C] times a polynomial of x·xᵀ, repeated."""
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        square = x @ x.mT
        if x.dtype == torch.bfloat16:  # three operations in place of eight
            x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
        else:
            x = a * x + (b * square + c * square @ square) @ x
    return x


def iterate_squares(x: Tensor, *, steps: int) -> Tensor:
    """The same on x·xᵀ [K, R, R] alone, applied to x [K, R, C] at the end: half the work for 3×3 filters.

    Multiplying x by a polynomial P multiplies x·xᵀ by P twice, and all of these commute.
    """
    a, b, c = COEFFICIENTS
    identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    square = polynomial = product = x @ x.mT
    for step in range(steps):
        if step:
            square = polynomial @ (polynomial @ square)
        polynomial = a * identity + b * square + c * square @ square
        product = polynomial @ product if step else polynomial
    return product @ x
