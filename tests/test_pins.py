"""Every package that `make` installs is pinned, and all but PyTorch by hash; against what the packages here ask for."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
TORCH = {"torch", "torchvision"}


def pins(name: str) -> dict[str, str]:
    """What each package of a file in requirements/ is pinned to, with what follows in its lines."""
    text = (ROOT / "requirements" / name).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    found = [re.fullmatch(r"([a-z0-9-]+)==([\w.]+)( .*)?", line.strip()) for line in lines]
    assert all(found), name
    return {match[1]: (match[3] or "").strip() for match in found if match}


def needed(*extras: str) -> set[str]:
    """The packages here that this package needs with some extras, and those that they need in turn."""
    seen: set[tuple[str, str]] = set()
    waiting = [("cifar", extra) for extra in ("", *extras)]
    while waiting:
        name, extra = waiting.pop()
        for text in importlib.metadata.requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                continue
            inner = canonicalize_name(requirement.name)
            try:
                importlib.metadata.version(inner)
            except importlib.metadata.PackageNotFoundError:
                continue
            new = [(inner, one) for one in ("", *requirement.extras)]
            waiting += [pair for pair in new if pair not in seen]
            seen.update(new)
    return {name for name, _ in seen} - {"cifar"}


def test_whatever_is_needed_here_is_pinned() -> None:
    assert needed() - TORCH <= pins("train.txt").keys()
    assert (all_ := needed("test")) - TORCH <= pins("test.txt").keys()
    assert len(all_) > 100
    assert pins("torch.txt").keys() >= TORCH


@pytest.mark.parametrize("name", ["train.txt", "test.txt"])
def test_hashes_of_all_but_pytorch(name: str) -> None:
    found = pins(name)
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", rest) for rest in found.values())
    assert not [package for package in found if package in TORCH or package.startswith(("nvidia-", "cuda-", "triton"))]


def test_the_files_agree_and_name_no_index() -> None:
    text = {name: (ROOT / "requirements" / name).read_text() for name in ("train.txt", "test.txt", "torch.txt")}
    versions = {name: dict(re.findall(r"^([a-z0-9-]+)==(\S+)", one, flags=re.M)) for name, one in text.items()}
    assert versions["train.txt"].items() <= versions["test.txt"].items()
    shared = versions["torch.txt"].keys() & versions["test.txt"].keys()
    assert len(shared) > 5
    assert all(versions["torch.txt"][package] == versions["test.txt"][package] for package in shared)
    assert "://" not in "".join(text.values())


def test_the_pins_are_what_the_package_asks_for() -> None:
    """After a change of pyproject.toml, `make pins` writes them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [Requirement(text) for text in (*project["dependencies"], *project["optional-dependencies"]["test"])]
    text = "".join((ROOT / "requirements" / name).read_text() for name in ("torch.txt", "test.txt"))
    versions = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, flags=re.M))
    for requirement in asked:
        if requirement.name != "cifar":
            assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement
