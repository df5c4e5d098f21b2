"""The Python API: what `import cifar` offers does what the commands do."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import cifar
from cifar.cli import app, run_app
from cifar.errors import InputError, Remark
from cifar.pipeline.job import validates_on_seen
from cifar.recipes import with_fields
from cifar.runs import checksum, load_network, run_recipe

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.usefixtures("blank_pictures")


class Linear(nn.Module):
    """A network of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.head(pixels.mean(dim=(2, 3)))
        return logits


def noisy(pixels: Tensor) -> Tensor:
    """An augmentation of one's own, which draws from PyTorch's and NumPy's generators."""
    return pixels + 0.1 * torch.randn_like(pixels) + float(np.random.uniform(-0.1, 0.1))


def without_every_other_pixel(pixels: Tensor) -> Tensor:
    return pixels[:, :, ::2, ::2]


def failing(pixels: Tensor) -> Tensor:
    raise KeyError(pixels.shape)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> cifar.Run:
    folder = tmp_path_factory.mktemp("api") / "run"
    return cifar.train("cnn", epochs=2, batch_size=100, lr=1e-3, data="sample", folder=folder, device="cpu", quiet=True)


def test_train_gives_what_the_command_gives(run: cifar.Run, tmp_path: Path) -> None:
    flags = [
        "-m",
        "cnn",
        "-e",
        "2",
        "-b",
        "100",
        "-l",
        "1e-3",
        "--data",
        "sample",
        "-d",
        "cpu",
        "-s",
        str(tmp_path / "r"),
    ]
    subprocess.run([sys.executable, "-m", "cifar", "train", *flags], check=True, capture_output=True)
    other = cifar.Run(tmp_path / "r")
    assert (run.accuracy, run.interval, run.recipe) == (other.accuracy, other.interval, other.recipe)
    for first, second in zip(run.metrics, other.metrics, strict=True):
        timed = {"seconds", "images_per_second"}
        assert {name: value for name, value in first.items() if name not in timed} == {
            name: value for name, value in second.items() if name not in timed
        }
    assert (run.folder / "model.safetensors").read_bytes() == (other.folder / "model.safetensors").read_bytes()
    command = f"cifar.train('cnn', epochs=2, batch_size=100, lr=0.001, data='sample', folder='{run.folder}', "
    assert run.summary["command"] == command + "device='cpu', quiet=True)"


def test_a_run_says_what_it_is(run: cifar.Run) -> None:
    assert run.state == "tested"
    assert run.accuracy is not None
    assert run.interval is not None
    low, high = run.interval
    assert f"cnn, test accuracy {run.accuracy:.2%}, 95 % interval {low:.2%} to {high:.2%}" in repr(run)
    assert len(run.metrics) == 2
    assert run.folds == []
    with pytest.raises(InputError, match="not a run folder"):
        cifar.Run(run.folder.parent)


def test_a_run_is_evaluated_reported_exported_and_loaded(run: cifar.Run, tmp_path: Path) -> None:
    evaluation = run.evaluate(split="validation", quiet=True, device="cpu")
    assert evaluation["split"] == "validation"
    assert evaluation["accuracy"] == pytest.approx(max(row["validation_accuracy"] for row in run.metrics))
    assert "<html" in run.report(tmp_path / "report.html").read_text()
    assert run.export("safetensors", tmp_path / "plain") == tmp_path / "plain"
    image = Image.fromarray(np.full((40, 50, 3), 200, np.uint8))
    expected = run.load(device="cpu").predict(image)
    assert torch.equal(cifar.load_model(tmp_path / "plain", device="cpu").predict(image).probs, expected.probs)
    with pytest.raises(InputError, match="no format"):
        run.export("tflite")
    classifier = run.load(device="cpu")
    assert repr(classifier) == f"Classifier(cnn, trained on {run.summary['data']}, on cpu)"
    assert expected.names[0] in repr(expected)
    explanation = classifier.explain(image)
    assert expected.names[0] in repr(explanation)
    assert explanation.png().startswith(b"\x89PNG")


def test_probabilities_are_calibrated_where_a_temperature_was_fitted(
    run: cifar.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript")
    images = cifar.load_data("sample", split="test").images[:50]
    classifier = run.load(device="cpu")
    own, calibrated = classifier.predict(images, calibrated=False), classifier.predict(images)
    temperature = json.loads((run.folder / "evaluation.json").read_text())["temperature_scaling"]["temperature"]
    assert (own.temperature, calibrated.temperature) == (1.0, temperature)
    expected = (own.probs.double().log() / temperature).softmax(1).float()
    torch.testing.assert_close(calibrated.probs, expected)
    assert not torch.allclose(calibrated.probs, own.probs, atol=1e-4)
    assert torch.equal(calibrated.labels, own.labels)
    assert classifier.predict(images, views="mirror").temperature == 1  # fitted for none alone
    # An export says the same, as a folder and as an ONNX file.
    for kind, target in (("safetensors", tmp_path / "plain"), ("onnx", tmp_path / "net.onnx")):
        exported = cifar.load_model(run.export(kind, target), device="cpu").predict(images)
        torch.testing.assert_close(exported.probs, calibrated.probs, atol=1e-5, rtol=1e-4)
    # Weights that were not evaluated have no temperature.
    copy = tmp_path / "copy"
    shutil.copytree(run.folder, copy)
    (copy / "checksums.json").unlink()
    shutil.copy(ROOT / "results" / "cnn" / "model.safetensors", copy)
    assert cifar.load_model(copy, device="cpu").temperatures == {}
    # The command says so.
    Image.fromarray(images[0].permute(1, 2, 0).numpy()).save(tmp_path / "image.png")
    arguments = ["predict", str(run.folder), str(tmp_path / "image.png"), "-d", "cpu", "--json"]
    for flags, probs in (([], calibrated.probs), (["--uncalibrated"], own.probs)):
        capsys.readouterr()
        assert run_app(app, arguments + flags, program="cifar") == 0
        said = capsys.readouterr()
        assert json.loads(said.out)[0]["probability"] == pytest.approx(float(probs[0].max()), abs=1e-6)
        assert ("calibrated: at temperature" in said.err) == (not flags)


def test_a_stopped_run_goes_on_and_a_finished_one_can_be_longer(run: cifar.Run, tmp_path: Path) -> None:
    common = {"batch_size": 100, "lr": 1e-3, "data": "sample", "device": "cpu", "quiet": True}
    short = cifar.train("cnn", epochs=1, folder=tmp_path / "run", **common)  # type: ignore[arg-type]
    longer = cifar.resume(short.folder, epochs=2, device="cpu", quiet=True)
    assert (longer.recipe, len(longer.metrics), longer.state) == (run.recipe, 2, "tested")


def test_a_network_of_ones_own_is_a_function(tmp_path: Path) -> None:
    run = cifar.train(
        Linear, epochs=1, data="sample", folder=tmp_path / "run", device="cpu", settings={"batch_size": 200}, quiet=True
    )
    assert run.recipe.model == f"{__name__}:Linear"
    assert len(run.load(device="cpu").predict(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))) == 2
    with pytest.raises(InputError, match="trust_code=True"):
        cifar.load_model(run.folder)
    with pytest.raises(InputError, match="cannot be found again"):
        cifar.train(lambda: Linear(), data="sample", folder=tmp_path / "other")


def test_a_network_of_a_script_is_loaded_where_it_is_defined(tmp_path: Path) -> None:
    """In __main__, as in a notebook."""
    definition = "import cifar, torch\nclass Net(torch.nn.Module):\n"
    definition += "    def __init__(self):\n        super().__init__()\n        self.head = torch.nn.Linear(3, 10)\n"
    definition += "    def forward(self, pixels):\n        return self.head(pixels.mean((2, 3)))\n"
    train = (
        "run = cifar.train(Net, epochs=1, data='sample', folder='run', device='cpu', quiet=True)\nprint(run.load())\n"
    )
    load = "print(cifar.load_model('run', device='cpu', trust_code=True))\n"
    for code in (definition + train, definition + load):
        process = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        assert "Classifier(__main__:Net" in process.stdout
    with pytest.raises(InputError, match="__main__ has no 'Net'"):
        cifar.load_model(tmp_path / "run", device="cpu", trust_code=True)


def test_folds_are_runs(tmp_path: Path) -> None:
    run = cifar.train("cnn", epochs=1, folds=2, data="sample", folder=tmp_path / "run", device="cpu", quiet=True)
    accuracies = [fold.accuracy for fold in run.folds]
    assert run.accuracy == pytest.approx(np.mean([accuracy or 0.0 for accuracy in accuracies]))
    assert "2 folds" in repr(run)
    with pytest.raises(InputError, match="fold"):
        run.evaluate()


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    recipe = cifar.recipe("resnet", lr=0.05, epochs=1, batch_size=500)
    assert (recipe.optimiser.lr, recipe.model) == (0.05, "resnet20")
    run = cifar.train(recipe=recipe, data="sample", folder=tmp_path / "run", device="cpu", quiet=True)
    assert run_recipe(run.folder) == recipe
    with pytest.raises(InputError, match="no_such"):
        cifar.recipe("resnet", no_such=1)


def test_an_augmentation_of_ones_own_is_a_function(tmp_path: Path, run: cifar.Run) -> None:
    def weights(run: cifar.Run) -> bytes:
        return (run.folder / "model.safetensors").read_bytes()

    common = {"batch_size": 100, "lr": 1e-3, "data": "sample", "device": "cpu", "quiet": True}
    augmented = cifar.train("cnn", epochs=2, augment=noisy, folder=tmp_path / "run", **common)  # type: ignore[arg-type]
    assert augmented.recipe.augment.own_augmentation == f"{__name__}:noisy"
    assert weights(augmented) != weights(run)
    # Its draws are resumed: two epochs in two parts are two epochs.
    short = cifar.train("cnn", epochs=1, augment=noisy, folder=tmp_path / "short", **common)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"The augmentation is .*:noisy"):
        cifar.resume(short.folder, epochs=2, device="cpu", quiet=True)
    longer = cifar.resume(short.folder, epochs=2, device="cpu", quiet=True, trust_code=True)
    constant = longer.recipe.schedule.kind == "constant"
    assert constant, "or else the rates of the first epoch differ"
    assert weights(longer) == weights(augmented)
    # Whoever only predicts needs not the function.
    assert len(cifar.load_model(short.folder, device="cpu").predict(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))) == 1


@pytest.mark.parametrize(
    "function, words",
    [(without_every_other_pixel, r"gives torch.float32 \[2, 3, 16, 16\]"), (failing, "fails with KeyError")],
)
def test_an_augmentation_that_cannot_be_used_is_refused_before_anything_is_written(
    function: Callable[[Tensor], Tensor], words: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        cifar.train("cnn", epochs=1, augment=function, data="sample", folder=tmp_path / "run", device="cpu", quiet=True)
    assert not (tmp_path / "run").exists()


def test_runs_are_compared(run: cifar.Run, tmp_path: Path) -> None:
    other = cifar.train("cnn", epochs=1, lr=1e-3, data="sample", folder=tmp_path / "other", device="cpu", quiet=True)
    result = cifar.compare(run, str(other.folder))
    (pair,) = result["pairs"]
    assert pair["difference"] == pytest.approx((run.accuracy or 0) - (other.accuracy or 0))
    assert result["conclusions"]
    with pytest.raises(InputError, match="two runs"):
        cifar.compare(run)


def test_lists_and_data() -> None:
    assert {"cnn", "resnet", "vit", "previt"} <= set(cifar.list_recipes())
    assert all(cifar.recipe(name) for name in cifar.list_recipes())
    assert {"cnn", "resnet20", "vit", "previt"} <= set(cifar.list_models())
    images = cifar.load_data("sample")
    assert repr(images) == "Split(1,000 images)"
    assert images.images.shape == (1000, 3, 32, 32)
    with pytest.raises(InputError, match="choose train or test"):
        cifar.load_data("sample", split="validation")


def test_what_a_person_sees(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    cifar.train("cnn", epochs=1, data="sample", folder=tmp_path / "run", device="cpu")
    output = capfd.readouterr()
    assert "epoch 1/1" in output.err
    assert "test accuracy" in output.out
    cifar.train("cnn", epochs=1, data="sample", folder=tmp_path / "quiet", device="cpu", quiet=True)
    assert capfd.readouterr() == ("", "")


def test_a_thread_can_train(tmp_path: Path) -> None:
    """Such as a server's: only the main thread gets signals."""
    folder = tmp_path / "run"
    common = {"epochs": 1, "data": "sample", "folder": folder, "device": "cpu"}
    thread = threading.Thread(target=cifar.train, args=("cnn",), kwargs=common)
    thread.start()
    thread.join()
    assert cifar.Run(folder).state == "tested"


def test_import_is_light() -> None:
    code = "import sys, cifar; print([name for name in ('torch', 'numpy', 'rich', 'typer') if name in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(process.stdout.replace("'", '"')) == []


def test_a_run_starts_from_the_weights_of_another(run: cifar.Run, tmp_path: Path) -> None:
    """With its recipe, and a step at a rate of almost 0 leaves them as they were."""
    began = cifar.train(
        from_run=run, epochs=1, lr=1e-12, seed=7, data="sample", folder=tmp_path / "new", device="cpu", quiet=True
    )
    assert began.recipe == with_fields(run.recipe, epochs=1, lr=1e-12, seed=7, weights=str(run.folder))
    assert began.summary["weights_sha256"] == checksum(run.folder / "model.safetensors")
    for name, tensor in load_network(began.folder).state_dict().items():
        assert torch.allclose(tensor, load_network(run.folder).state_dict()[name], atol=1e-6), name
    with pytest.raises(InputError, match="leave model, recipe and weights out"):
        cifar.train("cnn", from_run=run, quiet=True)
    with pytest.raises(InputError, match="not a run folder"):
        cifar.train(from_run=tmp_path, quiet=True)


def test_a_run_of_timm_starts_at_the_size_of_its_weights(tmp_path: Path) -> None:
    """With weights of a file it would take theirs, of 160 pixels, and their statistics; also from a second such run."""
    how = {"epochs": 1, "data": "sample", "device": "cpu", "quiet": True}
    first = cifar.train("timm:test_resnet", folder=tmp_path / "first", lr=0.001, **how)
    second = cifar.train(from_run=first, lr=1e-12, folder=tmp_path / "second", **how)
    shutil.rmtree(first.folder)  # nothing of it is needed any more
    third = cifar.train(from_run=second, lr=1e-12, folder=tmp_path / "third", **how)
    models = [load_network(each.folder) for each in (second, third)]
    assert [model.image_size for model in models] == [32, 32]
    assert torch.equal(models[0].normalise.mean, models[1].normalise.mean)
    pair = [next(model.network.parameters()) for model in models]
    assert torch.allclose(pair[0], pair[1], atol=1e-6)


def test_validation_images_that_were_trained_on_are_said(run: cifar.Run, tmp_path: Path) -> None:
    recipe = with_fields(run.recipe, epochs=1, weights=str(run.folder))
    assert validates_on_seen(recipe) is None
    assert validates_on_seen(with_fields(recipe, split_seed=1)) == run.folder
    assert validates_on_seen(with_fields(recipe, num_folds=5)) == run.folder
    assert validates_on_seen(with_fields(recipe, validation_fraction=0.0)) is None
    how = {"epochs": 1, "data": "sample", "device": "cpu", "quiet": True}
    with pytest.warns(Remark, match="was trained on images that this run validates on"):
        second = cifar.train(from_run=run, settings={"split_seed": 1}, folder=tmp_path / "second", **how)
    chained = with_fields(second.recipe, weights=str(second.folder))
    assert validates_on_seen(chained) == run.folder
