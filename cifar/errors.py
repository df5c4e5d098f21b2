"""What a person is meant to read: two errors, each one sentence that names the thing and the remedy, and a warning."""


class InputError(ValueError):
    """What was typed is wrong; names the valid choices. The command line exits with 2."""


class WorldError(RuntimeError):
    """What the world did (network, disk, a file, a missing device or package). The command line exits with 1."""


class Diverged(WorldError):  # noqa: N818  (as a training is said to have)
    """A training whose numbers are no longer finite: the same recipe would diverge again."""


class Remark(UserWarning):
    """Something is slower or other than asked, in one sentence. The command line prints it as one plain line."""
