"""Many runs of one recipe: its seeds, its folds, a search for better fields; shared out among workers by Optuna."""

from importlib.util import find_spec

from cifar.errors import WorldError


def check_optuna() -> None:
    """Raise WorldError, with the command that installs it, if Optuna is absent."""
    if find_spec("optuna") is None:
        raise WorldError('the package optuna is absent: pip install "cifar[sweep]"')
