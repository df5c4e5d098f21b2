"""What users bring: the function behind "package.module:function", imported only when they say so."""

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cifar.errors import InputError
from cifar.machine import is_out_of_memory
from cifar.models.repair import repair_torchvision
from cifar.models.weights import first_line


def check_trust(name: str, *, trust_code: bool, what: str = "network") -> None:
    """Refuse to import a function that only a file names.

    Args:
        name: "package.module:function".
        trust_code: whether the person who started the program named it, or said that it may be run.
        what: it is, for the error.

    Raises:
        InputError: it is not trusted; names the flag.
    """
    if not trust_code:
        raise InputError(
            f"The {what} is {name}, so loading it would import and run that code: if you trust it, give --trust-code "
            "(in Python, trust_code=True)."
        )


def name_of(function: Callable[..., Any]) -> str:
    """The name "module:function" by which a function of the user's is found again when its run is loaded.

    In a notebook or script the module is __main__: its runs are loaded where that function is defined again.

    Raises:
        InputError: a lambda, or a function within another, cannot be found.
    """
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "<object>")
    if not module or not name.isidentifier():
        raise InputError(
            f"{name} cannot be found again when the run is loaded: give a function or class that is defined by its "
            "name in a module or notebook."
        )
    return f"{module}:{name}"


def find_function(name: str) -> Callable[..., Any]:
    """The user's function behind "package.module:function"; modules in the current folder are found too.

    Raises:
        InputError: there is no such module, it is Python's own, importing it fails, or it has no such function.
    """
    module_name, _, attribute = name.partition(":")
    if module_name.partition(".")[0] in sys.stdlib_module_names:
        raise InputError(f"{name}: {module_name} is a module of Python itself: name a function of yours.")
    repair_torchvision()  # it may import torchvision, or timm
    try:
        with current_folder_importable():
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(f"{name}: there is no module {error.name!r}: install it or run from its folder.") from None
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{name}: importing {module_name} fails with {type(error).__name__}: {first_line(error)}"
        ) from error
    if not hasattr(module, attribute):
        near = difflib.get_close_matches(attribute, dir(module), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(f"{name}: {module_name} has no {attribute!r}.{hint}")
    function = getattr(module, attribute)
    if not callable(function):
        raise InputError(f"{name}: {attribute} is a {type(function).__name__}, not a function.")
    try:
        inspect.signature(function)
    except (ValueError, TypeError):  # some of those written in C have none
        raise InputError(f"{name} does not tell its arguments: name a function that is written in Python.") from None
    return function  # type: ignore[no-any-return]


def call_factory(factory: Callable[..., Any], options: Mapping[str, object], *, name: str) -> Any:
    """What the user's function returns, called in the current folder.

    Args:
        factory: of `find_function`.
        options: of the recipe, that it takes.
        name: "package.module:function", for the error.

    Raises:
        InputError: it needs other arguments, or fails.
    """
    try:
        inspect.signature(factory).bind(**options)
    except TypeError as error:
        raise InputError(
            f"{name} cannot be called without arguments ({error}): name a function that returns the network, such as "
            f"`def network(): return {name.partition(':')[2]}(…)`."
        ) from None
    try:
        with current_folder_importable():
            return factory(**options)
    except (Exception, SystemExit) as error:
        if is_out_of_memory(error):
            raise
        raise InputError(f"{name} fails with {type(error).__name__}: {first_line(error)}") from error


@contextmanager
def current_folder_importable() -> Iterator[None]:
    """Modules in the current folder are found first within this context."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
