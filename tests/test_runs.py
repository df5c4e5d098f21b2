import math
from pathlib import Path

import pytest

from cifar.errors import InputError, WorldError
from cifar.files import write_json, write_whole
from cifar.recipes import recipe_for
from cifar.runs import (
    load_network,
    new_folder,
    read_json,
    read_metrics,
    run_recipe,
    save_weights,
    write_metrics,
    write_recipe,
)


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    def fail(file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    path = tmp_path / "file"
    with pytest.raises(OSError, match="No space"):
        write_whole(path, fail)
    assert list(tmp_path.iterdir()) == []
    write_whole(path, lambda file: file.write(b"former"))
    with pytest.raises(OSError, match="No space"):
        write_whole(path, fail)
    assert path.read_bytes() == b"former"
    assert list(tmp_path.iterdir()) == [path]


def test_metrics_survive_their_file(tmp_path: Path) -> None:
    rows = [{"epoch": 1, "loss": 0.1 + 0.2, "accuracy": math.nan}, {"epoch": 2, "loss": 1e-12, "accuracy": 0.5}]
    write_metrics(tmp_path, rows)
    first, second = read_metrics(tmp_path)
    assert first["loss"] == 0.1 + 0.2
    assert math.isnan(first["accuracy"])
    assert second == rows[1]


@pytest.mark.parametrize("text", ["epoch,loss\n1,abc\n", "epoch,loss\n1\n1,2,3\n"])
def test_damaged_metrics_are_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(WorldError, match=r"metrics\.csv is damaged"):
        read_metrics(tmp_path)


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"a": math.nan})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "broken.json").write_text("{")
    for name in ("list.json", "broken.json", "absent.json"):
        with pytest.raises(WorldError, match=name):
            read_json(tmp_path / name)


def test_a_folder_in_use_is_refused_and_overwriting_spares_what_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "fold-0").mkdir()
    for name in ("recipe.json", "card.md", "confusion.png", "mine.txt", "fold-0/summary.json"):
        (tmp_path / name).write_text("")
    with pytest.raises(InputError, match="--overwrite"):
        new_folder(tmp_path, overwrite=False)
    new_folder(tmp_path, overwrite=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["fold-0", "mine.txt"]
    assert new_folder(tmp_path / "a" / "b", overwrite=False).is_dir()


def test_networks_come_back_from_their_folder(tmp_path: Path) -> None:
    import torch

    from cifar.models import build_model

    write_recipe(tmp_path, recipe_for("cnn"))
    assert run_recipe(tmp_path) == recipe_for("cnn")
    with pytest.raises(WorldError, match="first epoch"):
        load_network(tmp_path)
    model = build_model(recipe_for("cnn"))
    save_weights(tmp_path, model.state_dict())
    loaded, images = load_network(tmp_path), torch.rand(3, 3, 32, 32)
    assert not loaded.training
    assert torch.equal(loaded(images), model.eval()(images))
    write_recipe(tmp_path, recipe_for("resnet"))
    with pytest.raises(WorldError, match="does not fit"):
        load_network(tmp_path)
    with pytest.raises(InputError, match="not a run folder"):
        load_network(tmp_path / "elsewhere")
