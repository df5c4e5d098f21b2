"""The global generators are seeded together, and come back to where they were."""

import io
import random
from contextlib import suppress

import numpy as np
import pytest
import torch

from cifar.randomness import generator_states, generators_kept, restore_generators, seed_generators


def draws() -> list[float]:
    """Some of each; normal numbers come in pairs, of which the second is kept."""
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(1).item()]


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**63])
def test_a_seed_decides_all_draws(seed: int) -> None:
    seed_generators(seed)
    first = draws()
    seed_generators(seed)
    assert draws() == first
    seed_generators(seed ^ 1)
    assert not set(draws()) & set(first)


def test_states_go_through_a_file_that_runs_no_code() -> None:
    seed_generators(3)
    draws()
    file = io.BytesIO()
    torch.save(generator_states(), file)
    expected = draws()
    seed_generators(4)
    file.seek(0)
    restore_generators(torch.load(file, weights_only=True))
    assert draws() == expected


def test_what_is_drawn_within_the_context_leaves_no_trace() -> None:
    seed_generators(5)
    expected = draws()
    seed_generators(5)
    with generators_kept():
        draws()
        seed_generators(9)
    assert draws() == expected
    with suppress(ZeroDivisionError), generators_kept():
        print(draws()[0] / 0)
    assert draws() != expected
    seed_generators(5)
    with suppress(ZeroDivisionError), generators_kept():
        print(draws()[0] / 0)
    assert draws() == expected
