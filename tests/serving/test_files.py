"""Names to files, against the expansion of a shell, and predictions of files among broken ones."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from untrained_runs import make_untrained

from cifar.errors import InputError
from cifar.serving.classifier import Classifier, load_model
from cifar.serving.files import find_images, predict_files


def fail(sentence: str) -> None:
    raise AssertionError(sentence)


def find(name: object) -> list[str]:
    return find_images(str(name), unreadable=fail)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.png", "a.JPG", "notes.txt", "sub/deep/c.gif", "sub/d.webp", ".hidden.png", ".git/e.png", "Z.tiff"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "tree" / "void").mkdir()
    return tmp_path / "tree"


def test_a_folder_yields_the_images_of_its_subfolders(tree: Path) -> None:
    expected = ["Z.tiff", "a.JPG", "b.png", "sub/d.webp", "sub/deep/c.gif"]
    assert find(tree) == [str(tree / name) for name in expected]
    (tree / "loop").symlink_to(tree)
    (tree / "link.png").symlink_to(tree / "b.png")
    assert find(tree) == sorted(str(tree / name) for name in [*expected, "link.png"])


def test_an_existing_file_yields_itself_whatever_its_name(tree: Path) -> None:
    for name in ("notes.txt", ".hidden.png", "a.JPG"):
        assert find(tree / name) == [str(tree / name)]
    odd = tree / "[b].png"
    odd.write_bytes(b"")
    assert find(odd) == [str(odd)]


@pytest.mark.parametrize("pattern", ["*.png", "*.[jJ]*", "?.png", "sub/*.webp", "*/*/*", "no*.txt"])
def test_patterns_expand_as_in_a_shell(tree: Path, pattern: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"LC_ALL=C; printf '%s\\n' {pattern}"], cwd=tree, capture_output=True, text=True
    )
    assert find(tree / pattern) == [str(tree / line) for line in done.stdout.splitlines()]


def test_patterns_that_match_folders_yield_their_images(tree: Path) -> None:
    assert find(tree / "s*") == find(tree / "sub")
    assert find(tree / "**" / "*.gif") == [str(tree / "sub/deep/c.gif")]
    assert str(tree / "sub/d.webp") in find(tree / "**")
    assert len(set(find(tree / "**"))) == len(find(tree / "**"))


def test_names_that_yield_no_files_are_refused(tree: Path) -> None:
    for name, words in (("none", "no file or folder"), ("*.bmp", "Nothing matches"), ("void", "holds no images")):
        with pytest.raises(InputError, match=words):
            find(tree / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list everything")
def test_a_folder_that_cannot_be_listed_is_reported(tree: Path) -> None:
    (tree / "sub").chmod(0)
    reported: list[str] = []
    assert len(find_images(str(tree), unreadable=reported.append)) == 3
    (tree / "sub").chmod(0o700)
    assert len(reported) == 1


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return load_model(make_untrained(tmp_path_factory.mktemp("run"), "cnn"), device="cpu")


@pytest.mark.parametrize("batch_size", [1, 3, 4, 100])
def test_broken_files_are_reported_and_the_others_predicted(
    classifier: Classifier, tmp_path: Path, batch_size: int
) -> None:
    generator = np.random.default_rng(0)
    names = [str(tmp_path / f"{number}.png") for number in range(9)]
    for name in names:
        Image.fromarray(generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(name)
    broken = [names[0], names[4], names[5]]
    for name in broken:
        Path(name).write_bytes(Path(name).read_bytes()[:900])
    good = [name for name in names if name not in broken]
    reported: list[str] = []
    progress: list[tuple[int, int]] = []
    read, predictions = predict_files(
        classifier,
        names,
        batch_size=batch_size,
        unreadable=reported.append,
        progress=lambda *state: progress.append(state),
    )
    assert read == good
    torch.testing.assert_close(predictions.probs, classifier.predict(good).probs)
    assert [name for name, sentence in zip(broken, reported, strict=True) if name in sentence] == broken
    assert progress == [(number, 9) for number in range(1, 10)]


def test_unreadable_files_alone_give_no_predictions(classifier: Classifier, tmp_path: Path) -> None:
    reported: list[str] = []
    read, predictions = predict_files(classifier, [str(tmp_path / "none.png")], unreadable=reported.append)
    assert (read, len(predictions), len(reported)) == ([], 0, 1)
