"""The two errors that a person is meant to read: one sentence that names the thing and the remedy."""


class InputError(ValueError):
    """What was typed is wrong; names the valid choices. The command line exits with 2."""


class WorldError(RuntimeError):
    """What the world did (network, disk, a file, a missing device or package). The command line exits with 1."""
