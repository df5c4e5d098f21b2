import errno
import json
import math
import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from made_runs import summary_of

from cifar.errors import InputError, WorldError
from cifar.files import remove_leftovers, staged, write_json, write_whole
from cifar.recipes import recipe_for, to_json, with_fields
from cifar.runs import (
    change_recipe,
    first_files,
    load_network,
    metrics_text,
    new_run,
    open_run,
    read_json,
    read_metrics,
    read_predictions,
    recipe_to_resume,
    run_recipe,
    run_state,
    wandb_id,
    weights_bytes,
    write_file,
    write_files,
)
from cifar.runs.results import COLUMNS
from cifar.runs.schema import SCHEMAS, parse


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
    rows = [dict.fromkeys(COLUMNS, value) for value in (0.1 + 0.2, 1e-12)]
    rows[0]["validation_accuracy"] = math.nan
    (tmp_path / "metrics.csv").write_text(metrics_text(rows))
    first, second = read_metrics(tmp_path)
    assert first["train_loss"] == 0.1 + 0.2
    assert math.isnan(first["validation_accuracy"])
    assert second == rows[1]


HEADER = ",".join(COLUMNS)


@pytest.mark.parametrize(
    "text",
    [f"{HEADER}\n1,abc\n", f"{HEADER}\n1\n1,2,3,4,5,6,7,8,9\n", "1,2\n", "", f'{HEADER}\n"1\n', "\0" * 50, "\udcff"],
)
def test_damaged_metrics_are_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_bytes(text.encode(errors="surrogateescape"))
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


FIRST = {"recipe.json": "{}", "summary.json": "{}"}


def create(folder: Path, *, overwrite: bool = False) -> None:
    with new_run(folder, overwrite=overwrite) as create_run:
        create_run(FIRST)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_folder_in_use_is_refused_and_overwriting_spares_what_is_not_ours(tmp_path: Path) -> None:
    for folder in ("fold-0", "tensorboard", "wandb/offline-run"):
        (tmp_path / folder).mkdir(parents=True)
    of_evaluations = ("evaluation-test-shift.json", "confusion-validation-none.png")
    ours = ("recipe.json", "card.md", "confusion.png", "fold-0/summary.json", "tensorboard/events", "wandb/x.wandb")
    for name in (*ours, *of_evaluations, "mine.txt", "evaluation-notes.json"):
        (tmp_path / name).write_text("")
    with pytest.raises(InputError, match="--overwrite"):
        create(tmp_path)
    create(tmp_path, overwrite=True)
    assert names(tmp_path) == ["checksums.json", "evaluation-notes.json", "mine.txt", "recipe.json", "summary.json"]
    create(tmp_path / "a" / "b")
    (tmp_path / "recipe.json").unlink()
    (tmp_path / "tensorboard").mkdir()
    create(tmp_path, overwrite=True)
    assert (tmp_path / "tensorboard").exists()  # of no run: there was no recipe beside it


def test_nothing_is_removed_or_left_where_no_run_is_created(tmp_path: Path) -> None:
    create(tmp_path / "run")
    before = names(tmp_path)
    with new_run(tmp_path / "run", overwrite=True):
        pass
    with new_run(tmp_path / "new" / "deep", overwrite=False):
        assert (tmp_path / "new" / "deep").is_dir()
    assert names(tmp_path) == before


class Killed(BaseException):
    """Stands for the end of a process: nothing catches it, and nothing is tidied up after it."""


@pytest.mark.skipif(os.name != "posix", reason="forks")
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_appears_whole(overwrite: bool, tmp_path: Path) -> None:
    """Killed before any rename, removal or new folder, a folder is a run with all its first files, or none."""
    for limit in range(100):
        folder = tmp_path / str(limit)
        if overwrite:
            create(folder)
        finished = run_killed(limit, folder, overwrite=overwrite)
        if (folder / "summary.json").exists():
            assert set(FIRST) <= set(names(folder))
        create(folder, overwrite=overwrite or (folder / "summary.json").exists())
        assert names(folder) == ["checksums.json", *FIRST]
        assert not list(tmp_path.glob(".*"))
        if finished:
            break
    assert limit > 4
    assert finished


def run_killed(limit: int, folder: Path, *, overwrite: bool) -> bool:
    """Create a run in a process of its own, killed before one of its operations; whether it had fewer of them."""
    child = os.fork()
    if child == 0:
        left = limit

        def count(event: str, _arguments: object) -> None:
            nonlocal left
            if event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1

        sys.addaudithook(count)
        try:
            create(folder, overwrite=overwrite)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    """The lock is held by who writes, also over the rename that creates the run; reading needs none."""
    with new_run(tmp_path / "run", overwrite=False) as create_run:
        for moment in ("before", "after"):
            with pytest.raises(WorldError, match="another process"), new_run(tmp_path / "run", overwrite=True):
                pass
            with pytest.raises(WorldError, match="another process"), open_run(tmp_path / "run"):
                pass
            if moment == "before":
                create_run(FIRST)
        assert (tmp_path / "run" / "summary.json").read_text() == "{}"
    with open_run(tmp_path / "run"):
        pass


@pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
def test_a_killed_process_leaves_no_lock_and_its_leftovers_are_removed(tmp_path: Path) -> None:
    create(tmp_path / "run")
    child = os.fork()
    if child == 0:
        with open_run(tmp_path / "run"), staged(tmp_path / "run" / "last.ckpt", lambda file: file.write(b"half")):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    (tmp_path / "run" / ".mine.part").write_text("")
    assert len(list((tmp_path / "run").glob(".last.ckpt.*.part"))) == 1
    with open_run(tmp_path / "run"):
        assert names(tmp_path / "run") == [".mine.part", "checksums.json", "recipe.json", "summary.json"]


def test_a_picture_that_a_killed_process_left_half_written_goes_with_the_next(tmp_path: Path) -> None:
    for name in (".sheet.png.01234567.part", ".other.png.01234567.part", ".sheet.png.mine.part"):
        (tmp_path / name).write_text("")
    write_file(tmp_path / "sheet.png", b"")
    assert names(tmp_path) == [".other.png.01234567.part", ".sheet.png.mine.part", "sheet.png"]


def test_a_temporary_file_that_is_being_written_is_no_leftover(tmp_path: Path) -> None:
    with staged(tmp_path / "file", lambda file: file.write(b"half")) as temporary:
        remove_leftovers(tmp_path)
        assert temporary.read_bytes() == b"half"
    assert names(tmp_path) == []


@pytest.mark.parametrize("renames", range(4))
def test_checksums_hold_at_every_moment_of_a_change(
    renames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many of the renames have happened, every file verifies; a flipped bit does not."""
    real, left = Path.replace, renames
    write_files(tmp_path, {"a.json": '{"a": 1}', "b.json": '{"b": 1}'})

    def limited(path: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return real(path, target)

    monkeypatch.setattr(Path, "replace", limited)
    with pytest.raises(Killed) if renames < 3 else nullcontext():
        write_files(tmp_path, {"a.json": '{"a": 2}', "b.json": '{"b": 2}'})
    monkeypatch.undo()
    assert read_json(tmp_path / "a.json") == {"a": 2 if renames > 1 else 1}
    assert read_json(tmp_path / "b.json") == {"b": 2 if renames > 2 else 1}
    with open_run(tmp_path):
        write_files(tmp_path, {"a.json": '{"a": 3}', "b.json": '{"b": 3}'})
    for name in ("a.json", "b.json"):
        assert read_json(tmp_path / name) == {name[0]: 3}
        content = bytearray((tmp_path / name).read_bytes())
        content[-2] ^= 4
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WorldError, match=f"{name} was changed or damaged"):
            read_json(tmp_path / name)


def test_a_full_disk_is_named_with_the_file_and_nothing_changes(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.json": "{}"})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(file: IO[bytes]) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(WorldError, match=r"last\.ckpt cannot be written \(No space left on device\): free"):
        write_files(tmp_path, {"a.json": "[]", "last.ckpt": fail})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_pipes_and_devices_are_neither_replaced_nor_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "summary.json")
    with pytest.raises(OSError, match="pipe or device"):
        write_json(tmp_path / "summary.json", {})
    with pytest.raises(WorldError, match=r"summary\.json cannot be read \(it is no regular file\)"):
        read_json(tmp_path / "summary.json")
    (tmp_path / "link").symlink_to(tmp_path / "target.html")
    write_file(tmp_path / "link", "a report")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target.html").read_text() == "a report"


DAMAGE: list[object] = [
    {}, [], None, "text", {"test_readings": 1}, {"recipe": []}, {"test_accuracy": 2}, {"test_accuracy": "0.5"},
    {"state": "finished"}, {"machine": {}}, {"test_readings": [{}]}, {"epochs": -1}, {"test_interval": [0.5]},
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE, ids=str)
def test_a_summary_of_another_shape_is_one_sentence(damage: object, tmp_path: Path) -> None:
    value = summary_of() | damage if isinstance(damage, dict) and damage else damage
    (tmp_path / "summary.json").write_text(json.dumps(value))
    with pytest.raises(WorldError, match=r"summary\.json was changed or damaged since the run wrote it: "):
        read_json(tmp_path / "summary.json")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": NaN}', '{"a": 1e999}', "\ufeff{}", '{"a": ' + "9" * 5000 + "}"])
def test_text_that_is_no_json_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(WorldError, match="it is not JSON"):
        read_json(tmp_path / "other.json")


def test_every_recorded_file_fits_its_schema_and_lacks_nothing() -> None:
    for path in (Path(__file__).parent.parent / "results").rglob("*.json"):
        if path.name in SCHEMAS:
            value = read_json(path)
            for key in SCHEMAS[path.name].__required_keys__:
                with pytest.raises(ValueError, match="required"):
                    parse(json.dumps({name: value[name] for name in value if name != key}).encode(), name=path.name)


def test_predictions_are_checked(tmp_path: Path) -> None:
    probs, labels = np.full((3, 10), 0.1, dtype=np.float32), np.arange(3)
    damaged: list[dict[str, object]] = [
        {"probs": probs.astype(np.float64)}, {"probs": probs[:, :9]}, {"probs": probs * 2}, {"probs": probs * np.nan},
        {"labels": labels[:2]}, {"labels": labels + 9}, {"split": np.array(3)}, {"split": np.array([{}], dtype=object)},
        {"bomb": np.zeros(2**23)},
    ]  # fmt: skip
    arrays: dict[str, object] = {"probs": probs, "labels": labels, "split": np.array("test")}
    np.savez_compressed(tmp_path / "predictions.npz", **arrays)  # type: ignore[arg-type]
    assert read_predictions(tmp_path)[2] == "test"
    for change in damaged:
        np.savez_compressed(tmp_path / "predictions.npz", **arrays | change)  # type: ignore[arg-type]
        with pytest.raises(WorldError, match="is damaged: make it with `cifar evaluate"):
            read_predictions(tmp_path)
    with (tmp_path / "predictions.npz").open("wb") as file:
        np.save(file, probs)
    with pytest.raises(WorldError, match="is damaged"):
        read_predictions(tmp_path)


def test_a_recipe_that_was_edited_is_refused_by_its_field(tmp_path: Path) -> None:
    recipe = recipe_for("cnn")
    folders = [tmp_path / name for name in ("with checksums", "without")]
    for folder in folders:
        folder.mkdir()
        write_files(folder, first_files(recipe, summary_of(recipe)))
    (folders[1] / "checksums.json").unlink()
    for folder in folders:
        assert recipe_to_resume(folder) == recipe
        (folder / "recipe.json").write_text(to_json(with_fields(recipe, split_seed=3)))
        with pytest.raises(InputError, match="split_seed is 3, and 0 in"):
            recipe_to_resume(folder)
    with pytest.raises(InputError, match="split_seed is 3, and 0 in"):
        run_recipe(folders[0])


def test_a_change_of_rate_counts_from_the_summary_on(tmp_path: Path) -> None:
    """Also where the process ended before recipe.json was written."""
    recipe = recipe_for("cnn")
    write_files(tmp_path, first_files(recipe, summary_of(recipe)))
    former = (tmp_path / "recipe.json").read_bytes()
    change_recipe(tmp_path, with_fields(recipe, lr=0.5))
    assert recipe_to_resume(tmp_path) == run_recipe(tmp_path) == with_fields(recipe, lr=0.5)
    (tmp_path / "recipe.json").write_bytes(former)
    assert recipe_to_resume(tmp_path) == with_fields(recipe, lr=0.5)


def test_a_run_without_its_summary_is_not_begun_anew(tmp_path: Path) -> None:
    write_files(tmp_path, {"recipe.json": to_json(recipe_for("cnn")), "last.ckpt": "of epoch 3"})
    with pytest.raises(WorldError, match=r"lacks summary\.json"):
        recipe_to_resume(tmp_path)


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
        write_files(folder, {"summary.json": json.dumps(summary_of())})
        ids.append(wandb_id(folder))
        assert wandb_id(folder) == ids[-1] == read_json(folder / "summary.json")["wandb_id"]
    assert ids[0] != ids[1]


def test_networks_come_back_from_their_folder(tmp_path: Path) -> None:
    import torch

    from cifar.models import build_model

    write_files(tmp_path, {"recipe.json": to_json(recipe_for("cnn"))})
    assert run_recipe(tmp_path) == recipe_for("cnn")
    with pytest.raises(WorldError, match="first epoch"):
        load_network(tmp_path)
    model = build_model(recipe_for("cnn"))
    write_files(tmp_path, {"model.safetensors": weights_bytes(model.state_dict())})
    loaded, images = load_network(tmp_path), torch.rand(3, 3, 32, 32)
    assert not loaded.training
    assert torch.equal(loaded(images), model.eval()(images))
    write_files(tmp_path, {"recipe.json": to_json(recipe_for("resnet"))})
    with pytest.raises(WorldError, match="does not fit"):
        load_network(tmp_path)
    with pytest.raises(InputError, match="not a run folder"):
        load_network(tmp_path / "elsewhere")
