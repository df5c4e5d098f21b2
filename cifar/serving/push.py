"""`cifar push`: a run published on the Hugging Face hub, in one commit, by the hub's own client."""

import re
from collections.abc import Callable
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

from cifar.errors import InputError, WorldError
from cifar.models.weights import ask_hub, first_line
from cifar.recipes.choice import own_code
from cifar.reporting.card import model_card
from cifar.runs import EVALUATION, METRICS, PICTURES, RECIPE, SUMMARY, WEIGHTS, run_recipe

FILES = (WEIGHTS, RECIPE, SUMMARY, METRICS, EVALUATION, *PICTURES)


def files_to_push(folder: Path, repository: str) -> dict[str, Path | bytes]:
    """The files of a run's repository by name: files of the run unchanged, and the model card as README.md.

    Other files in the folder are not pushed: the checkpoint, predictions, and whatever the user put there.

    Args:
        folder: of a finished run.
        repository: owner/name.

    Returns:
        for each file its path, or its content.

    Raises:
        InputError: not the name of a repository; no finished run, or a cross-validation.
        WorldError: the weights are absent, or a file is damaged.
    """
    check_repository(repository)
    card = model_card(folder, repository=repository)
    if not (folder / WEIGHTS).exists():
        raise WorldError(f"{folder / WEIGHTS} does not exist: a run without its weights cannot be pushed.")
    files: dict[str, Path | bytes] = {name: folder / name for name in FILES if (folder / name).exists()}
    return files | {"README.md": card.encode()}


APP = """\
import os
import sys

from cifar.cli import app, run_app

# The hub leads to the page under this name.
place = ["--host", "0.0.0.0", "--port", "7860", "--allow-host", os.environ["SPACE_HOST"]]
sys.exit(run_app(app, ["demo", "run", *place], program="app.py"))
"""


def files_of_space(folder: Path, repository: str) -> dict[str, Path | bytes]:
    """The files of a Space that shows a run's demo, by name: the run, this package, and the program that starts it.

    Args:
        folder: of a finished run.
        repository: owner/name of the Space.

    Returns:
        for each file its path, or its content.

    Raises:
        InputError, WorldError: as `files_to_push`; or a network of the user's, whose module is not in the Space.
    """
    if own_code(run_recipe(folder)):
        raise InputError(f"{folder} needs a module of your own, which is not pushed: a Space cannot show its demo.")
    files = {f"run/{name}": content for name, content in files_to_push(folder, repository).items()}
    package = Path(__file__).parent.parent
    sources = (path for path in sorted(package.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
    for path in sources:
        name = path.relative_to(package)
        if name.parts[0] != "recorded":  # the runs that come with a wheel
            files[f"cifar/{name.as_posix()}"] = path
    header = {"title": repository.rpartition("/")[2], "sdk": "gradio", "sdk_version": version("gradio")}
    header |= {"app_file": "app.py", "pinned": "false", "license": "mit"}
    lines = "\n".join(f"{name}: {value}" for name, value in header.items())
    files["README.md"] = (
        f"---\n{lines}\n---\n\nThe demo of a network that `cifar` trained; its card is in run/.\n".encode()
    )
    files["app.py"] = APP.encode()
    files["requirements.txt"] = ("\n".join(requirements()) + "\n").encode()
    return files


def requirements() -> list[str]:
    """What the demo needs besides this package, as pip takes it."""
    needed = requires("cifar") or []
    always = [line for line in needed if "extra ==" not in line]
    of_demo = [line.partition(";")[0] for line in needed if re.search(r"extra == .(demo|explain).", line)]
    return [*always, *(line for line in of_demo if not line.startswith("cifar"))]


def check_repository(repository: str) -> None:
    """Refuse a name that the hub would not accept as owner/name.

    Raises:
        InputError: says what is wrong with it.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        reason = first_line(error)
    else:
        reason = "" if repository.count("/") == 1 else "the owner is missing."
    if reason:
        raise InputError(f"{repository!r} is not a repository of the hub, owner/name: {reason.rstrip('.')}.")


def size_of(content: Path | bytes) -> int:
    """Size of a file to push, in bytes."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def push_files(
    files: dict[str, Path | bytes],
    repository: str,
    *,
    private: bool,
    token: str,
    message: str,
    space: bool = False,
    say: Callable[[str], None] = lambda _sentence: None,
) -> str:
    """Create the repository if it does not exist, and add the files to it in one commit: all of them or none.

    HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE and HF_HUB_DISABLE_XET are respected, as they were when Python started.

    Args:
        files: of `files_to_push`; other files in the repository are left there.
        repository: owner/name.
        private: create it private. An existing repository keeps its visibility; a public one is refused.
        token: of the hub, with write permission; "" is HF_TOKEN, or that of `hf auth login`.
        message: of the commit.
        space: whether the repository is a Space, with Gradio, and not a model.
        say: gets a sentence if files were replaced.

    Returns:
        the URL of the repository.

    Raises:
        WorldError: no token; the hub is offline, cannot be reached, refuses, or the connection breaks off.
    """
    from huggingface_hub import get_token

    token = token or get_token() or ""
    try:
        url = commit_files(files, repository, private=private, token=token, message=message, space=space, say=say)
    except WorldError as error:
        raise WorldError(without_secrets(str(error), token=token)) from None
    return without_secrets(url, token=token)


def without_secrets(sentence: str, *, token: str) -> str:
    """A sentence for the terminal without the token, and without the passwords that URLs of mirrors may hold."""
    masked = re.sub(r"(?<=://)[^/\s@]*@", "***@", sentence)
    return masked.replace(token, "***") if token else masked


def commit_files(
    files: dict[str, Path | bytes],
    repository: str,
    *,
    private: bool,
    token: str,
    message: str,
    space: bool,
    say: Callable[[str], None],
) -> str:
    """`push_files` with a token, whose errors may hold secrets."""
    from huggingface_hub import CommitOperationAdd, HfApi, constants

    endpoint = constants.ENDPOINT
    if constants.HF_HUB_OFFLINE:
        raise WorldError("HF_HUB_OFFLINE is set: unset it to push.")
    if not token:
        raise WorldError(
            f"There is no token for the hub: create one with write permission at {endpoint}/settings/tokens, then set "
            "HF_TOKEN or run `hf auth login`."
        )
    if reason := ask_hub(endpoint):
        raise WorldError(f"{endpoint} cannot be reached ({reason}): connect and try again; nothing was sent.")
    api: Any = HfApi(endpoint=endpoint, token=token)
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()]
    try:
        kind = "space" if space else "model"
        api.create_repo(
            repository, private=private or None, exist_ok=True, repo_type=kind, space_sdk="gradio" if space else None
        )
        before = api.repo_info(repository, repo_type=kind)
        refused = private and not before.private
        if not refused:
            api.create_commit(repository, operations, commit_message=message, repo_type=kind)
    except Exception as error:  # of the hub's client, of its transport, of the disk
        raise WorldError(push_error(error, repository=repository, endpoint=endpoint)) from None
    place = f"spaces/{repository}" if space else repository
    if refused:
        raise WorldError(
            f"{repository} exists and is public, which --private forbids: choose another name, or make it private "
            f"at {endpoint}/{place}/settings; nothing was sent."
        )
    if replaced := files.keys() & {file.rfilename for file in before.siblings or ()}:
        say(f"{repository} already held {', '.join(sorted(replaced))}: replaced; its other files are unchanged.")
    return f"{endpoint}/{place}"


def push_error(error: Exception, *, repository: str, endpoint: str) -> str:
    """A sentence that says why a push failed, with the remedy.

    Args:
        error: of the hub's client.
        repository: owner/name.
        endpoint: URL of the hub.
    """
    from huggingface_hub.errors import HfHubHTTPError

    causes = [error]  # the original one last: the client wraps the errors of large files
    while isinstance(causes[-1].__cause__, Exception):
        causes.append(causes[-1].__cause__)
    http_errors = [cause for cause in causes if isinstance(cause, HfHubHTTPError)]
    status = http_errors[-1].response.status_code if http_errors else 0
    message = (http_errors[-1].server_message or "") if http_errors else ""
    reason = f" ({' '.join(message.split())})" if message else ""
    if status == 401:
        return f"{endpoint} does not accept the token{reason}: create another at {endpoint}/settings/tokens."
    if status in (403, 404):
        return (
            f"{endpoint} does not let this token write to {repository}{reason}: name a repository of your own, or "
            f"create a token with write permission at {endpoint}/settings/tokens."
        )
    if status >= 500 or not status:
        fault = (
            f"{endpoint} responds with status {status}" if status else f"The push broke off ({first_line(causes[-1])})"
        )
        return f"{fault}: try again; the hub takes a commit whole or not at all."
    return f"{endpoint} refuses {repository} with status {status}{reason or f' ({first_line(error)})'}."
