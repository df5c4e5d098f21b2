"""The command line as a person meets it: every flag both ways, every bad input one sentence, nothing half-written."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from cifar import __version__
from cifar.cli import app, run_app
from cifar.cli.display import TerminalDisplay
from cifar.pipeline.job import Job
from cifar.recipes import from_mapping, recipe_for, with_fields
from cifar.runs import run_recipe

pytestmark = pytest.mark.usefixtures("blank_pictures")  # but for those of `finished`
ROOT = Path(__file__).parent.parent
QUICK = ["-m", "cnn", "-e", "2", "-b", "100", "-l", "1e-3", "-d", "cpu", "--data", "sample"]


def cifar(*arguments: object) -> int:
    return run_app(app, [str(argument) for argument in arguments], program="cifar")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "quick"
    assert cifar("train", *QUICK, "-s", folder) == 0
    return folder


def test_a_run_leaves_its_folder(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names == {
        "recipe.json", "metrics.csv", "model.safetensors", "last.ckpt", "summary.json", "checksums.json",
        "curves.png", "evaluation.json", "predictions.npz", "confusion.png", "reliability.png", "mistakes.png",
        "train_batch.png", "val_batch.png",
    }  # fmt: skip
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["finished"]
    assert summary["command"] == f"cifar train {' '.join(QUICK)} -s {finished}"
    assert len(summary["test_readings"]) == 1
    assert set(summary["timing"]) == {"start_up", "data", "training", "evaluation", "pictures"}
    assert summary["timing"]["training"] >= summary["seconds"] - 0.1
    low, high = summary["test_interval"]
    assert 0 <= low < summary["test_accuracy"] < high <= 1
    assert len((finished / "metrics.csv").read_text().splitlines()) == 3
    with np.load(finished / "predictions.npz") as predictions:
        assert (predictions["probs"].argmax(1) == predictions["labels"]).mean() == summary["test_accuracy"]


def test_flags_are_the_recipe(finished: Path) -> None:
    recipe = from_mapping(json.loads((finished / "recipe.json").read_text()), origin="recipe.json")
    assert (recipe.model, recipe.epochs, recipe.batch_size, recipe.optimiser.lr) == ("cnn", 2, 100, 1e-3)
    assert recipe.optimiser.kind == recipe_for("cnn").optimiser.kind


def test_result_line_and_capitals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cifar("train", *QUICK, "-s", tmp_path / "run") == 0
    output = capsys.readouterr()
    assert "SAMPLE OF CIFAR-10" in output.out
    assert "NOT A RESULT" in output.err
    assert "95 % interval" in output.out
    assert str(tmp_path / "run") in output.out
    assert "epoch 2/2" in output.err


def test_dry_run_prints_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["-m", "resnet", "--seed", "7", "--set", "flip=0", "--set", "label-smoothing=0.1", "--dry-run"]
    assert cifar("train", *flags, "-s", tmp_path / "run") == 0
    text = capsys.readouterr().out
    recipe, _ = json.JSONDecoder().raw_decode(text)
    assert (recipe["model"], recipe["seed"], recipe["flip"], recipe["label_smoothing"]) == ("resnet20", 7, 0, 0.1)
    assert "50 epochs" in text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flag", [[], ["-c"], ["--folds", "3"], ["-c", "--folds", "4"]])
def test_cross_validation_flags(flag: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cifar("train", "-m", "cnn", *flag, "--dry-run") == 0
    recipe, _ = json.JSONDecoder().raw_decode(capsys.readouterr().out)
    assert recipe["num_folds"] == {0: 0, 1: 5, 2: 3, 3: 4}[len(flag)]


def test_recipes_by_name_file_and_with_another_model(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, model, epochs in (
        (["--recipe", "vit-plain"], "vit", recipe_for("vit-plain").epochs),
        (["--recipe", finished / "recipe.json"], "cnn", 2),
        (["--recipe", finished / "recipe.json", "-m", "resnet"], "resnet20", 2),
        (["--recipe", "resnet", "-m", "resnet32", "-e", "9"], "resnet32", 9),
    ):
        assert cifar("train", *flags, "--dry-run") == 0
        recipe, _ = json.JSONDecoder().raw_decode(capsys.readouterr().out)
        assert (recipe["model"], recipe["epochs"]) == (model, epochs)


BAD = [
    (["-m", "resnte"], "Did you mean resnet? Choose from cnn, resnet, resnet-better, vit,"),
    (["-m", "vgg"], "Choose from"),
    (["-m", "cnn", "-e", "0"], "epochs is 0"),
    (["-m", "cnn", "-e", "-3"], "epochs is -3"),
    (["-m", "cnn", "-e", "many"], "'-e'"),
    (["-m", "cnn", "-b", "0"], "batch_size"),
    (["-m", "cnn", "-b", "1.5"], "'-b'"),
    (["-m", "cnn", "-l", "0"], "lr is 0"),
    (["-m", "cnn", "-l", "nan"], "finite"),
    (["-m", "cnn", "-l", "fast"], "'-l'"),
    (["-m", "cnn", "--seed", "-1"], "seed"),
    (["-m", "cnn", "--folds", "1"], "num_folds"),
    (["-m", "cnn", "--folds", "0"], "2 folds"),
    (["-m", "cnn", "-d", "tpu"], "cpu, mps or cuda"),
    (["-m", "cnn", "--set", "epoch=3"], "Did you mean epochs"),
    (["-m", "cnn", "--set", "epochs"], "field=value"),
    (["-m", "cnn", "--recipe", "none"], "There is no recipe"),
    (["-m", "cnn", "--colour"], "--colour"),
    (["-m", "cnn", "extra"], "extra"),
    (["-m"], "-m"),
    (["-e", "3"], "Name a model"),
    (["-m", "cnn", "--data", "/nonexistent/data"], "/nonexistent/data"),
    (["--resume", "/nonexistent/run"], "/nonexistent/run"),
    (["-m", "no.such.module:net"], "no.such.module"),
    (["-m", "cnn", "--kernels", "fast"], "native or pytorch"),
]


@pytest.mark.parametrize("flags, words", [row for row in BAD if "extra" not in row[0]][:21])
def test_what_was_typed_is_refused_without_waiting_for_pytorch(flags: list[str], words: str) -> None:
    code = (
        "import sys; from cifar.cli import app, run_app\n"
        f"code = run_app(app, ['train', *{flags!r}], program='cifar')\n"
        "print(code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]
    assert words in done.stderr


@pytest.mark.parametrize("kernels, used", [([], "native"), (["--kernels", "pytorch"], "pytorch")])
@pytest.mark.parametrize("compile", [False, True])
def test_how_a_run_is_computed_is_in_its_summary(
    kernels: list[str], used: str, compile: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIFAR_KERNELS", "native")
    monkeypatch.setattr("torch.nn.Module.compile", lambda _: None)
    assert cifar("train", *QUICK, "-e", "1", *kernels, *["--compile"] * compile, "-s", tmp_path / "run") == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["kernels"], summary["compiled"]) == (used, compile)
    # A resume computes in the same way.
    jobs: list[Job] = []
    monkeypatch.setattr("cifar.cli.train.train_job", lambda job: jobs.append(job))
    assert cifar("train", "--resume", tmp_path / "run") == 0
    assert (jobs[0].compile, jobs[0].kernels) == (compile, used)
    assert os.environ["CIFAR_KERNELS"] == "native"  # as it was before


@pytest.mark.parametrize("flags, words", BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_bad_input_is_one_sentence_and_exit_2(
    flags: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cifar("train", *flags) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert words in output.err
    assert len(output.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_absent_device_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    absent = [
        name
        for name, there in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available()))
        if not there
    ]
    for name in absent:
        assert cifar("train", "-m", "cnn", "-d", name, "--dry-run") == 2
        assert f"{name} is absent" in capsys.readouterr().err


def test_save_folder_in_use_needs_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    assert cifar("train", *QUICK, "-s", tmp_path) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert cifar("train", *QUICK, "-s", tmp_path, "--overwrite", "-e", "1") == 0
    assert (tmp_path / "mine.txt").read_text() == "keep"
    assert json.loads((tmp_path / "summary.json").read_text())["epochs"] == 1


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cifar("--version") == 0
    assert capsys.readouterr().out == f"cifar {__version__}, PyTorch {torch.__version__}\n"


def test_unwritable_save_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert cifar("train", *QUICK, "-s", tmp_path / "file" / "run") == 2
    assert "--save-folder" in capsys.readouterr().err


def test_ctrl_c_saves_everything_and_says_how_to_resume(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = [*QUICK[:3], "400", *QUICK[4:]]
    process = subprocess.Popen(
        [sys.executable, ROOT / "train.py", *flags, "-s", folder],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # as in a terminal
    )
    deadline = time.monotonic() + 60
    while not (folder / "last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert f"--resume {folder}" in errors
    assert "Traceback" not in errors
    assert json.loads((folder / "summary.json").read_text())["finished"] is False
    # What a person sees next: flags that would change the run are refused, the resume itself goes on.
    assert cifar("train", "--resume", folder, "-b", "3") == 2
    recipe = json.loads((folder / "recipe.json").read_text())
    assert recipe["epochs"] == 400


def test_resume_continues_and_a_finished_run_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = iter([False] * 12 + [True] * 100)
    with monkeypatch.context() as patch:
        patch.setattr(TerminalDisplay, "should_stop", lambda _: next(steps))
        assert cifar("train", *QUICK, "-s", tmp_path / "broken") == 130
    assert cifar("train", "--resume", tmp_path / "broken") == 0
    assert cifar("train", *QUICK, "-s", tmp_path / "whole") == 0
    from safetensors.torch import load_file

    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("broken", "whole"))
    assert all((first[name] == second[name]).all() for name in first)
    before = (tmp_path / "broken" / "summary.json").read_text()
    capsys.readouterr()
    assert cifar("train", "--resume", tmp_path / "broken") == 0
    assert "finished already" in capsys.readouterr().err
    assert (tmp_path / "broken" / "summary.json").read_text() == before


@pytest.mark.parametrize("flags", [
    ["--data", "empty"], ["--data", "broken.tar"], ["-m", "nowhere:net"], ["-m", "timm:no_such"],
    ["--set", "momentum=no"],
    ["-m", "previt", "--weights", "absent.pth"],
], ids=" ".join)  # fmt: skip
def test_what_is_refused_overwrites_nothing(
    flags: list[str], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("broken.tar").write_bytes(b"no archive")
    shutil.copytree(finished, "good")
    before = {path: path.read_bytes() for path in Path("good").iterdir()}
    assert cifar("train", *QUICK, *flags, "-s", "good", "--overwrite") in (1, 2)
    assert {path: path.read_bytes() for path in Path("good").iterdir()} == before


def test_cross_validation_stops_and_resumes_between_folds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = iter([False] * 20 + [True] * 100)
    flags = [*QUICK, "--folds", "3", "--seed", "10"]
    with monkeypatch.context() as patch:
        patch.setattr(TerminalDisplay, "should_stop", lambda _: next(steps))
        assert cifar("train", *flags, "-s", tmp_path) == 130
    assert f"--resume {tmp_path}" in capsys.readouterr().err
    assert json.loads((tmp_path / "crossval.json").read_text())["finished"] is False
    first = (tmp_path / "fold-0" / "summary.json").read_text()
    assert cifar("train", "--resume", tmp_path) == 0
    output = capsys.readouterr().out
    assert (tmp_path / "fold-0" / "summary.json").read_text() == first
    result = json.loads((tmp_path / "crossval.json").read_text())
    summaries = [json.loads((tmp_path / f"fold-{fold}" / "summary.json").read_text()) for fold in range(3)]
    assert [summary["seed"] for summary in summaries] == [10, 11, 12]
    assert [summary["num_validation"] for summary in summaries] == [340, 330, 330] or sum(
        summary["num_validation"] for summary in summaries
    ) == 1000
    for split in ("validation", "test"):
        values = [summary[f"{split}_accuracy"] for summary in summaries]
        assert result[split]["folds"] == values
        assert result[split]["mean"] == pytest.approx(np.mean(values))
        assert result[split]["std"] == pytest.approx(np.std(values, ddof=1))
    probs = [np.load(tmp_path / f"fold-{fold}" / "predictions.npz") for fold in range(3)]
    ensemble = np.mean([part["probs"] for part in probs], axis=0).argmax(1) == probs[0]["labels"]
    assert result["test_of_averaged_probabilities"]["accuracy"] == pytest.approx(ensemble.mean())
    assert "averaged probabilities" in output
    assert "standard deviation" in output


@pytest.mark.parametrize("split, count", [("test", 200), ("validation", 100)])
def test_evaluate_a_split(split: str, count: int, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = json.loads((finished / "summary.json").read_text())
    assert cifar("evaluate", finished, "--split", split, "-d", "cpu", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    name = "evaluation.json" if split == "test" else "evaluation-validation-none.json"
    assert printed == json.loads((finished / name).read_text())
    assert (printed["split"], printed["num_images"]) == (split, count)
    assert printed["data"].startswith("SAMPLE")
    after = json.loads((finished / "summary.json").read_text())
    assert len(after["test_readings"]) == len(before["test_readings"]) + (split == "test")
    assert printed["accuracy"] == pytest.approx(before[f"{split}_accuracy"])


def test_evaluate_prints_tables(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cifar("evaluate", finished, "-d", "cpu") == 0
    output = capsys.readouterr()
    for words in ("accuracy", "95 % interval", "precision", "recall", "F1", "truck", "nats"):
        assert words in output.out
    assert "SAMPLE" in output.err


@pytest.mark.parametrize("flags, code, words", [
    (["nowhere"], 2, "not a run folder"),
    (["RUN", "--split", "train"], 2, "test or validation"),
    ([], 2, "Name a run's folder"),
])  # fmt: skip
def test_evaluate_bad_input(
    flags: list[str], code: int, words: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cifar("evaluate", *(str(finished) if flag == "RUN" else flag for flag in flags)) == code
    error = capsys.readouterr().err
    assert words in error
    assert len(error.strip().splitlines()) == 1


def test_a_damaged_weights_file_is_one_sentence_and_exit_1(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    copy = shutil.copytree(finished, tmp_path / "copy")
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    assert cifar("evaluate", copy, "-d", "cpu") == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert "model.safetensors" in error[-1]
    assert len(error) == 2  # the sample's notice and the sentence


def test_data_shows_the_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cifar("data", "--data", "sample", "--sheet", tmp_path / "sheet.png") == 0
    output = capsys.readouterr()
    for words in ("sha256", "airplane", "truck", "1,000", "mean", "standard deviation", str(tmp_path / "sheet.png")):
        assert words in output.out
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_bare_without_a_terminal_prints_usage_and_exits_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "train.py"], stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: ")


@pytest.mark.parametrize("wandb", [False, True])
@pytest.mark.parametrize("tensorboard", [False, True])
def test_loggers_on_and_off(wandb: bool, tensorboard: bool, tmp_path: Path) -> None:
    flags = ["-w"] * wandb + ["--tensorboard"] * tensorboard
    assert cifar("train", *QUICK, *flags, "-s", tmp_path / "run") == 0
    offline = list((tmp_path / "run").glob("wandb/offline-run-*/*.wandb"))
    events = list((tmp_path / "run").glob("tensorboard/events.*"))
    assert bool(offline) == wandb
    assert bool(events) == tensorboard
    if tensorboard:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        reader = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
        rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
        written = [event.value for event in reader.Scalars("validation_accuracy")]
        column = rows[0].split(",").index("validation_accuracy")
        assert written == pytest.approx([float(row.split(",")[column]) for row in rows[1:]])


def test_a_pretrained_transformer_from_a_local_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import save_file

    from cifar.models.repair import repair_torchvision

    repair_torchvision()
    import timm

    name = "test_vit"  # timm's own, for tests
    pretrained = timm.create_model(name, num_classes=1000, img_size=32, depth=2)
    small = ["--set", f"model_name={name}", "--set", "image_size=32"]
    # The real depth is 6: a file of another depth is refused, in one sentence, before anything is written.
    save_file(pretrained.state_dict(), tmp_path / "other.safetensors")
    flags = ["-m", "previt", *small, "-e", "1", "-d", "cpu", "--data", "sample", "-s", tmp_path / "run"]
    assert cifar("train", *flags, "--weights", tmp_path / "other.safetensors") == 2
    assert "does not fit" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    whole = timm.create_model(name, num_classes=1000, img_size=32)
    save_file(whole.state_dict(), tmp_path / "vit.safetensors")
    assert cifar("train", *flags, "--weights", tmp_path / "vit.safetensors") == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["weights_sha256"] == hashlib.sha256((tmp_path / "vit.safetensors").read_bytes()).hexdigest()
    # What is evaluated later needs neither the file nor the hub.
    (tmp_path / "vit.safetensors").unlink()
    assert cifar("evaluate", tmp_path / "run", "--split", "validation", "-d", "cpu") == 0


def test_a_network_of_timm_and_one_of_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mynets.py").write_text(
        "from torch import nn\n"
        "def net(): return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 10))\n"
        "def bad(): return nn.Flatten()\n"
    )
    common = ["-e", "1", "-d", "cpu", "--data", "sample"]
    assert cifar("train", "-m", "mynets:net", *common, "-s", "own") == 0
    assert cifar("evaluate", "own", "-d", "cpu") == 2
    assert "give --trust-code" in capsys.readouterr().err
    assert cifar("evaluate", "own", "-d", "cpu", "--trust-code") == 0
    assert cifar("train", "-m", "timm:test_resnet", *common, "-s", "timm") == 0
    assert json.loads(Path("timm/summary.json").read_text())["model"] == "timm:test_resnet"
    capsys.readouterr()
    for name, words in (
        ("mynets:bad", "[2, 10]"),
        ("mynets:nett", "Did you mean net"),
        ("timm:resnett18", "Did you mean"),
    ):
        assert cifar("train", "-m", name, *common, "-s", "bad") == 2
        error = capsys.readouterr().err
        assert words in error
        assert len(error.strip().splitlines()) == 1
        assert not Path("bad").exists()


def test_a_damaged_archive_is_exit_1_and_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"\x1f\x8b damaged")
    flags = ["--data", tmp_path / "cifar-10-python.tar.gz"]
    assert cifar("train", "-m", "cnn", *flags, "-s", tmp_path / "run") == 1
    assert cifar("data", *flags) == 1
    begun, _, *errors = capsys.readouterr().err.strip().splitlines()
    assert begun.startswith("cnn: 20 epochs")
    assert len(errors) == 2
    assert all("cifar-10-python.tar.gz is damaged" in error for error in errors)
    assert not (tmp_path / "run").exists()


def test_precision_that_the_hardware_lacks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cifar.machine.has_bf16", lambda _: False)
    assert cifar("train", *QUICK, "-e", "1", "--set", "precision=bf16", "-s", tmp_path / "run") == 0
    assert "no fast bf16: training in fp32" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["precision"] == "fp32"


def test_ctrl_c_in_the_evaluation_ends_it_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A training that is finished is not asked to stop "after this step"."""

    def interrupt(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr("cifar.pipeline.together.predict", interrupt)
        assert cifar("train", *QUICK, "-s", tmp_path / "run") == 130
    error = capsys.readouterr().err
    assert "after this step" not in error
    assert f"Interrupted. Go on with: cifar train --resume {tmp_path / 'run'}" in error
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["state"] == "trained"
    assert cifar("train", "--resume", tmp_path / "run") == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["state"] == "tested"


def test_overwrite_leaves_nothing_of_the_former_runs_logs(tmp_path: Path) -> None:
    assert cifar("train", *QUICK, "-e", "1", "-w", "--tensorboard", "-s", tmp_path / "run") == 0
    former = {path for name in ("wandb", "tensorboard") for path in (tmp_path / "run" / name).rglob("*")}
    assert former
    assert cifar("train", *QUICK, "-e", "1", "-s", tmp_path / "run", "--overwrite") == 0
    assert not any(path.exists() for path in former)


def test_a_machine_without_a_compiler_is_told_in_one_plain_line_and_trains(tmp_path: Path) -> None:
    environment = os.environ | {"CC": "no-such-compiler", "CIFAR_HOME": str(tmp_path / "cache")}
    command = [sys.executable, ROOT / "train.py", *QUICK, "-e", "1", "-s", tmp_path / "run"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if "compiler" in line]
    assert len(told) == 1
    assert told[0].startswith("There is no C compiler (no-such-compiler) here, so")
    assert "Remark" not in done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["kernels"] == "pytorch"


def test_from_takes_recipe_and_weights_of_a_run(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cifar("train", "--from", finished, "-e", 1, "--data", "sample", "-d", "cpu", "-s", tmp_path / "new") == 0
    said = capsys.readouterr().err
    assert f"from the weights in {finished}" in said
    assert f"next:\n  cifar report {tmp_path / 'new'}\n" in said
    assert run_recipe(tmp_path / "new") == with_fields(run_recipe(finished), epochs=1, weights=str(finished))
    assert cifar("train", "--from", finished, "-m", "cnn") == 2
    assert "leave -m, --recipe and --weights out" in capsys.readouterr().err
    assert cifar("train", "--from", tmp_path / "new" / "absent") == 2
    (tmp_path / "new" / "model.safetensors").unlink()
    assert cifar("train", "--from", tmp_path / "new") == 1
    assert "weights of this run were not kept" in capsys.readouterr().err
