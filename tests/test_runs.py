import math
import os
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
    run_state,
    save_weights,
    update_summary,
    wandb_id,
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
    for folder in ("fold-0", "tensorboard", "wandb/offline-run"):
        (tmp_path / folder).mkdir(parents=True)
    ours = ("recipe.json", "card.md", "confusion.png", "fold-0/summary.json", "tensorboard/events", "wandb/x.wandb")
    for name in (*ours, "mine.txt"):
        (tmp_path / name).write_text("")
    with pytest.raises(InputError, match="--overwrite"):
        new_folder(tmp_path, overwrite=False)
    new_folder(tmp_path, overwrite=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["fold-0", "mine.txt"]
    assert new_folder(tmp_path / "a" / "b", overwrite=False).is_dir()
    (tmp_path / "tensorboard").mkdir()
    new_folder(tmp_path, overwrite=True)
    assert (tmp_path / "tensorboard").exists()  # of no run: there is no recipe beside it


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_have_the_permissions_that_the_umask_leaves(umask: int, tmp_path: Path) -> None:
    former = os.umask(umask)
    try:
        write_json(tmp_path / "file", {})
    finally:
        os.umask(former)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize(
    "summary, state",
    [
        ({"state": "trained", "finished": True, "test_accuracy": 0.5}, "trained"),
        ({"finished": False, "test_accuracy": 0.5}, "unfinished"),
        ({"finished": True, "test_accuracy": None}, "trained"),
        ({"finished": True, "test_accuracy": 0.5}, "tested"),
    ],
)
def test_state_is_what_the_summary_says_or_followed_for_older_ones(summary: dict[str, object], state: str) -> None:
    assert run_state(summary) == state


def test_every_recorded_run_is_tested() -> None:
    summaries = list((Path(__file__).parent.parent / "results").rglob("summary.json"))
    assert len(summaries) >= 20
    assert {run_state(read_json(path)) for path in summaries} == {"tested"}


def test_an_id_for_wandb_is_unique_and_kept(tmp_path: Path) -> None:
    folders = [tmp_path / name / "fold-0" for name in ("first", "second")]
    ids = []
    for folder in folders:
        folder.mkdir(parents=True)
        update_summary(folder, state="unfinished")
        ids.append(wandb_id(folder))
        assert wandb_id(folder) == ids[-1] == read_json(folder / "summary.json")["wandb_id"]
    assert ids[0] != ids[1]


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
