"""Where a trained network comes from: a run's folder, a recorded run that ships with this package, or the hub."""

import re
from pathlib import Path

from cifar.errors import InputError, WorldError
from cifar.models.weights import ask_hub, first_line
from cifar.recipes.recorded import recorded
from cifar.runs import EXPORT, RECIPE, SUMMARY, WEIGHTS

# Recorded runs whose weights come with this package, by recipe: the folder in results/.
RECORDED = {row.recipe: row.run for row in recorded().values() if row.weights}
PACKAGE = Path(__file__).parent.parent
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")  # owner/name


def find_run(name: str | Path) -> Path:
    """The folder of a run, or of a network that was exported or pushed.

    Args:
        name: the folder; a recorded run, such as "resnet"; or "owner/name" on the Hugging Face hub, where there is
            neither such a folder nor one called owner. What is fetched stays in the hub's cache.

    Raises:
        InputError: there is nothing of that name.
        WorldError: the hub is offline, cannot be reached or refuses, or the recorded weights were not installed.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    if str(name) in RECORDED:
        return recorded_run(str(name))
    if HUB_NAME.fullmatch(str(name)) and not Path(str(name).partition("/")[0]).exists():
        return fetch_run(str(name))
    if str(name) in recorded():
        raise InputError(f"The weights of the recorded run of {name} were not kept: train it with -m {name}.")
    raise InputError(
        f"There is no run {name}: name a run's folder, a recorded run ({', '.join(RECORDED)}), owner/name on the "
        "Hugging Face hub, or an ONNX file of `cifar export`."
    )


def recorded_run(name: str) -> Path:
    """The folder of a recorded run: of the package, or in a clone of the repository."""
    for folder in (PACKAGE / "recorded" / RECORDED[name], PACKAGE.parent / "results" / RECORDED[name]):
        if (folder / WEIGHTS).exists():
            return folder
    raise WorldError(f"The weights of the recorded run {name} were not installed with this package: install it again.")


def fetch_run(repository: str) -> Path:
    """The folder in the hub's cache that holds a network which `cifar push` put on the hub, fetched if it is not there.

    Args:
        repository: owner/name.

    Raises:
        InputError: it holds no network of ours.
        WorldError: it cannot be had.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    names = [RECIPE, WEIGHTS, SUMMARY, EXPORT, "evaluation*.json"]
    try:
        if constants.HF_HUB_OFFLINE or (reason := ask_hub(constants.ENDPOINT)):
            folder = Path(snapshot_download(repository, allow_patterns=names, local_files_only=True))
        else:
            folder = Path(snapshot_download(repository, allow_patterns=names))
    except LocalEntryNotFoundError:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else reason
        raise WorldError(
            f"{repository} is not in the hub's cache, and {constants.ENDPOINT} cannot be asked ({why}): connect, or "
            "name a run's folder."
        ) from None
    except Exception as error:  # of the hub's client, of its transport, of the disk
        raise WorldError(f"{repository} cannot be had from {constants.ENDPOINT} ({first_line(error)}).") from None
    if not (folder / RECIPE).exists() or not (folder / WEIGHTS).exists():
        raise InputError(f"{repository} on the hub holds no network of this program: it has no {RECIPE} and {WEIGHTS}.")
    return folder
