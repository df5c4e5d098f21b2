"""The global random generators of Python, NumPy and PyTorch, which networks may draw from: seeded, kept, restored.

This package's own code takes a `torch.Generator` instead; dropout and the networks that people bring do not.
"""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch


def seed_generators(seed: int) -> None:
    """Seed all of them, on every device.

    Args:
        seed: 0 or more; NumPy takes its lowest 32 bits.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def generator_states() -> dict[str, Any]:
    """Their states, as tensors and plain values that `torch.load` takes with weights_only."""
    _, keys, *rest = cast("tuple[Any, ...]", np.random.get_state())
    return {
        "python": random.getstate(),
        "numpy": (torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_generators(states: Mapping[str, Any]) -> None:
    """Bring them to where `generator_states` found them."""
    random.setstate(states["python"])
    keys, *rest = states["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])


def draws_of_python() -> tuple[object, ...]:
    """Equal to an earlier one where nothing was drawn from Python's and NumPy's generators in between."""
    _, keys, *rest = cast("tuple[Any, ...]", np.random.get_state())
    return random.getstate(), keys.tobytes(), *rest


@contextmanager
def generators_kept() -> Iterator[None]:
    """A context whose draws from them leave no trace."""
    states = generator_states()
    try:
        yield
    finally:
        restore_generators(states)
