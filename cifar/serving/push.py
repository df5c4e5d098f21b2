"""`cifar push`: a run given to the hub, in one commit, by the hub's own client."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cifar.errors import InputError, WorldError
from cifar.models.weights import ask_hub, first_line
from cifar.reporting.card import model_card
from cifar.runs import EVALUATION, METRICS, PICTURES, RECIPE, SUMMARY, WEIGHTS

FILES = (WEIGHTS, RECIPE, SUMMARY, METRICS, EVALUATION, *PICTURES)


def files_to_push(folder: Path, repository: str) -> dict[str, Path | bytes]:
    """What a run's repository holds, by name there: files of the run as they are, and the card as README.md.

    What else lies in the folder stays there: checkpoint, predictions, and whatever a person put in it.

    Raises:
        InputError: not a name of a repository; no finished run, or a cross-validation.
        WorldError: the weights are absent, or a file is damaged.
    """
    check_repository(repository)
    card = model_card(folder, repository=repository)
    if not (folder / WEIGHTS).exists():
        raise WorldError(f"{folder / WEIGHTS} does not exist: a run without its weights cannot be given away.")
    files: dict[str, Path | bytes] = {name: folder / name for name in FILES if (folder / name).exists()}
    return files | {"README.md": card.encode()}


def check_repository(repository: str) -> None:
    """Refuse what the hub would not take as owner/name.

    Raises:
        InputError: says how a name has to be.
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
    """Bytes of a file to push."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def push_files(
    files: dict[str, Path | bytes],
    repository: str,
    *,
    private: bool,
    token: str,
    message: str,
    say: Callable[[str], None] = lambda _sentence: None,
) -> str:
    """Make the repository if there is none, and put files into it, in one commit: all of them or none.

    HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE and HF_HUB_DISABLE_XET are respected, as they were when Python started.

    Args:
        files: as `files_to_push` gives them; others that the repository holds are left there.
        repository: owner/name.
        private: make it private. One that exists keeps its visibility; a public one is refused.
        token: of the hub, with the right to write; "" is HF_TOKEN, or what `hf auth login` left.
        message: of the commit.
        say: gets a sentence where files were there before.

    Returns:
        the address of the repository.

    Raises:
        WorldError: no token; the hub is offline, cannot be reached, refuses, or goes away.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token

    endpoint = constants.ENDPOINT
    if constants.HF_HUB_OFFLINE:
        raise WorldError("HF_HUB_OFFLINE is set: unset it to push.")
    token = token or get_token() or ""
    if not token:
        raise WorldError(
            f"There is no token for the hub: make one with the right to write at {endpoint}/settings/tokens, then set "
            "HF_TOKEN or run `hf auth login`."
        )
    if reason := ask_hub(endpoint):
        raise WorldError(f"{endpoint} cannot be reached ({reason}): connect and run it again; nothing was sent.")
    api: Any = HfApi(endpoint=endpoint, token=token)
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()]
    try:
        api.create_repo(repository, private=private or None, exist_ok=True)
        found = api.model_info(repository)
        public = private and not found.private
        if not public:
            api.create_commit(repository, operations, commit_message=message)
    except Exception as error:  # of the hub's client, of its transport, of the disk
        raise WorldError(refusal(error, repository=repository, endpoint=endpoint)) from None
    if public:
        raise WorldError(
            f"{repository} exists and is public, so --private cannot be kept: choose another name, or make it private "
            f"at {endpoint}/{repository}/settings; nothing was sent."
        )
    if replaced := files.keys() & {one.rfilename for one in found.siblings or ()}:
        say(f"{repository} held {', '.join(sorted(replaced))} before: replaced; its other files are as they were.")
    return f"{endpoint}/{repository}"


def refusal(error: Exception, *, repository: str, endpoint: str) -> str:
    """A sentence on what the hub or the way there did, with the remedy."""
    from huggingface_hub.errors import HfHubHTTPError

    causes = [error]  # the first one last: the client wraps what happens to a large file
    while isinstance(causes[-1].__cause__, Exception):
        causes.append(causes[-1].__cause__)
    answers = [cause for cause in causes if isinstance(cause, HfHubHTTPError)]
    status = answers[-1].response.status_code if answers else 0
    words = (answers[-1].server_message or "") if answers else ""
    reason = f" ({' '.join(words.split())})" if words else ""
    if status == 401:
        return f"{endpoint} does not accept the token{reason}: make another at {endpoint}/settings/tokens."
    if status in (403, 404):
        return (
            f"{endpoint} does not let this token write to {repository}{reason}: name a repository of your own, or make "
            f"a token with the right to write at {endpoint}/settings/tokens."
        )
    if status >= 500 or not status:
        answer = f"{endpoint} answers with status {status}"
        broke = answer if status else f"The push broke off ({first_line(causes[-1])})"
        return f"{broke}: run it again; a commit is there whole or not at all."
    return f"{endpoint} refuses {repository} with status {status}{reason or f' ({first_line(error)})'}."
