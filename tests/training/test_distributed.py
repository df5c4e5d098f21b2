"""Several processes train as one does, and each computes its part."""

import json
import math
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from several_processes import CASES, environment, free_port, some_images, start
from torch import nn

import cifar
from cifar.cli import app, run_app
from cifar.errors import InputError, WorldError
from cifar.pipeline.job import Job, begun_before
from cifar.recipes import recipe_for, to_json, with_fields
from cifar.runs import read_metrics
from cifar.training import distributed, launch
from cifar.training.capture import obstacle
from cifar.training.loop import train
from cifar.training.scaling import Costs, Link, exchange_seconds, measure, scaling_sentence, speed_up

ROOT = Path(__file__).parent.parent.parent


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """Every case, to rounding; and both processes end with the same bits."""
    started = start([str(ROOT / "tests" / "several_processes.py"), str(tmp_path), *CASES], processes=2)
    printed = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], printed
    assert printed == [("", "")] * 2
    assert json.loads((tmp_path / "told.json").read_text()) == dict.fromkeys(CASES, True)
    for name, recipe in CASES.items():
        folder = tmp_path / "one" / name
        folder.mkdir(parents=True)
        train(recipe, *some_images(), folder=folder)
        two, one = (load_file(place / "model.safetensors") for place in (tmp_path / name, folder))
        # Newton–Schulz iterations raise small singular values, and differences with them.
        tolerance = 1e-5 if name == "muon" else 1e-6
        assert max((two[key] - one[key]).abs().max().item() for key in one) < tolerance, name
        rows_of_two, rows = read_metrics(tmp_path / name), read_metrics(folder)
        assert len(rows) == len(rows_of_two) == (2 if name == "plateau" else recipe.epochs)  # patience ran out
        for row_of_two, row in zip(rows_of_two, rows, strict=True):
            for key in row.keys() - {"seconds", "images_per_second"}:
                assert row_of_two[key] == pytest.approx(row[key], abs=tolerance), (name, key)


@pytest.mark.parametrize("num_rows", [1, 3, 6, 7, 64])
@pytest.mark.parametrize("together", [1, 2, 3])
def test_the_rows_of_a_batch_are_shared_out_once(num_rows: int, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of parts, averaged with their weights, are the gradient of the mean over the whole batch."""
    monkeypatch.setattr(distributed, "processes", lambda: together)
    values = torch.arange(1.0, num_rows + 1)
    average, seen = 0.0, 0
    for rank in range(together):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        rows, weight = distributed.share(num_rows)
        assert rows.stop - rows.start >= min(num_rows, distributed.FEWEST_ROWS)
        average += weight * values[rows].mean().item() / together
        seen += (rows.stop - rows.start) * distributed.counted(num_rows)
    assert average == pytest.approx(values.mean().item())
    assert seen == num_rows


def test_the_host_name_must_lead_to_the_host_where_there_are_several(monkeypatch: pytest.MonkeyPatch) -> None:
    here = launch.Place(0, 4, 0, 2, 2, 0, 0)
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    for name, what in (("localhost", "is 127.0.0.1"), ("no-such-host.invalid", "has no address")):
        monkeypatch.setattr(socket, "gethostname", lambda name=name: name)
        with pytest.raises(WorldError, match=rf"{what}.*GLOO_SOCKET_IFNAME, and on GPUs NCCL_SOCKET_IFNAME"):
            launch.check_host_name(here)
    launch.check_host_name(launch.Place(0, 2, 0, 2, 1, 0, 0))  # one host may talk to itself
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    launch.check_host_name(here)


@pytest.mark.parametrize(
    "devices, device, sync_batchnorm, message",
    [
        (2, "mps", False, "cannot share mps"),
        (2, "cuda:1", False, "cannot share cuda:1"),
        (2, "cpu", True, "on GPUs alone"),
        (None, "cuda", True, "is for several processes"),
    ],
)
def test_what_several_processes_cannot_do_is_refused(
    devices: int | None, device: str, sync_batchnorm: bool, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        launch.check_devices(devices, device=device, sync_batchnorm=sync_batchnorm)


def test_devices_under_torchrun_must_be_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(0, 2, 1).items():
        monkeypatch.setenv(name, value)
    launch.check_devices(2, device="cpu", sync_batchnorm=False)
    with pytest.raises(InputError, match="2 processes here already: leave --devices 4 out"):
        launch.check_devices(4, device="cpu", sync_batchnorm=False)


def test_other_verbs_are_refused_under_torchrun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in environment(0, 2, free_port()).items():
        monkeypatch.setenv(name, value)
    assert run_app(app, ["evaluate", "runs/x"], program="cifar") == 2
    assert "cifar evaluate is one process: start it without torchrun." in capsys.readouterr().err
    with pytest.raises(InputError, match="A training from Python is one process"):
        cifar.train("cnn", data="sample", device="cpu", folder=tmp_path / "run")


def test_only_a_run_of_the_same_recipe_was_begun_before(tmp_path: Path) -> None:
    recipe = with_fields(recipe_for("cnn"), epochs=3)
    assert not begun_before(Job(recipe, tmp_path))
    (tmp_path / "recipe.json").write_text(to_json(recipe))
    (tmp_path / "crossval.json").write_text('{"finished": false, "data": "", "data_sha256": ""}')
    assert begun_before(Job(recipe, tmp_path, cross_validate=True))
    assert not begun_before(Job(recipe, tmp_path))
    assert not begun_before(Job(with_fields(recipe, epochs=4), tmp_path, cross_validate=True))


def test_slurm_and_torchrun_tell_of_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not launch.was_restarted()
    for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "1")
            assert launch.was_restarted()


def test_steps_of_several_processes_are_not_captured() -> None:
    options = {"precision": "bf16", "skip_bad_steps": 0, "own_augmentation": ""}
    assert obstacle(**options, processes=2)  # type: ignore[arg-type]
    assert not obstacle(**options, processes=1)  # type: ignore[arg-type]


def test_batch_statistics_are_converted_in_place() -> None:
    """So that the optimiser keeps its parameters, and the run the names of its weights."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    parameters, names = list(model.parameters()), list(model.state_dict())
    synchronised = distributed.synchronise_batchnorm(model)
    assert isinstance(synchronised[1], nn.SyncBatchNorm)  # type: ignore[index]
    assert all(one is other for one, other in zip(parameters, synchronised.parameters(), strict=True))
    assert list(synchronised.state_dict()) == names


def test_a_ring_of_processes_step_by_step() -> None:
    """Each sends a p-th of the gradients to its neighbour, p - 1 times to add up and p - 1 times to hand round."""
    link = Link(bandwidth=1e9, latency=1e-5)
    for together in (1, 2, 8):
        turns = [link.latency + 4e6 / together / link.bandwidth for _ in range(2 * (together - 1))]
        assert exchange_seconds(4_000_000, processes=together, link=link) == pytest.approx(sum(turns))


def test_the_speed_up_is_that_of_amdahl_without_an_exchange() -> None:
    costs = Costs(fixed=0.01, row=0.001, gradient_bytes=0)
    for together in (1, 2, 4, 64):
        serial = 0.01 / (0.01 + 0.001 * 128)
        amdahl = 1 / (serial + (1 - serial) / together)
        assert speed_up(costs, batch_size=128, processes=together, exchange=0.0) == pytest.approx(amdahl)
    assert speed_up(costs, batch_size=128, processes=4, exchange=math.inf) == 0


def test_what_does_not_pay_is_said() -> None:
    large, small = Costs(0.0, 0.001, 4_000_000), Costs(0.001, 1e-6, 4_000_000)
    here = launch.Place(0, 4, 0, 4, 1, 0, 0)
    said = scaling_sentence(large, 0.001, batch_size=128, here=here, device="cuda")
    assert said.startswith("4 processes should be about 3.9 times as fast as one (a step of about 33 ms, 1.0 of them")
    assert "4 MB of gradients" in said
    assert "do not pay" in scaling_sentence(small, 0.001, batch_size=128, here=here, device="cuda")
    assert "they share the cores" in scaling_sentence(large, 0.001, batch_size=128, here=here, device="cpu")


def test_the_costs_of_a_step_are_measured_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifar.training.scaling.all_reduce", lambda _tensor: None)
    model, training = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(3072, 10)), some_images()[0]
    state, before = torch.get_rng_state(), [one.clone() for one in model.parameters()]
    costs, _ = measure(model, training, batch_size=8, image_size=0, device="cpu", precision="fp32")
    assert costs.gradient_bytes == 4 * (3072 * 10 + 10)
    assert costs.row > 0
    assert torch.equal(state, torch.get_rng_state())
    assert all(one.grad is None for one in model.parameters())
    assert all(torch.equal(one, former) for one, former in zip(model.parameters(), before, strict=True))
