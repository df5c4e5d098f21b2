"""Arrays in the cache: whole and verified, or not there."""

import random
import resource
from pathlib import Path

import numpy as np
import pytest

from cifar.data.arrays import load_array, save_array

ROWS = np.random.default_rng(0).standard_normal((40, 3, 5), dtype=np.float32)


def save(path: Path) -> bytes:
    save_array(path, ROWS.shape, np.split(ROWS, [16, 32]))
    return path.read_bytes()


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    save(tmp_path / "a.npy")
    loaded = load_array(tmp_path / "a.npy", 40)
    assert loaded is not None
    assert np.array_equal(loaded, ROWS)
    assert np.array_equal(np.load(tmp_path / "a.npy"), ROWS)  # any other program reads it
    loaded += 1  # in memory only
    assert np.array_equal(np.load(tmp_path / "a.npy"), ROWS)
    assert load_array(tmp_path / "a.npy", 39) is None
    assert load_array(tmp_path / "b.npy", 40) is None
    assert load_array(tmp_path, 40) is None


def test_a_damaged_file_is_never_trusted(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    content = save(path)
    draw = random.Random(0)
    flips = [
        content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]
        for at in range(0, len(content), 7)
    ]
    cuts = [content[:end] for end in (0, 1, 31, 32, 33, 128, 500, len(content) - 32, len(content) - 1)]
    foreign = [content + b"\0", ROWS.tobytes(), bytes(len(content))]
    np.save(path, ROWS)
    for damaged in (*flips, *cuts, *foreign, path.read_bytes()):
        path.write_bytes(damaged)
        assert load_array(path, 40) is None


@pytest.mark.parametrize("limit", [0, 1, 100, 1000, 2500])
def test_a_full_disk_is_an_error_and_leaves_what_was_there(limit: int, tmp_path: Path) -> None:
    content = save(tmp_path / "a.npy")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            save(tmp_path / "a.npy")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]
    assert (tmp_path / "a.npy").read_bytes() == content
