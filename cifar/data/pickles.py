"""CIFAR-10's pickled batches read as data: no name is looked up and nothing is called.

Python's own unpickler can be made to crash or to build arrays of raw pointers, even where it may only use numpy's
names. Here `pickletools` cuts the bytes into opcodes, and those that the official files use make numbers, bytes,
strings, tuples, lists and dictionaries. The few calls in them (of numpy's arrays and dtypes, and of `_codecs.encode`,
as which Python 3 writes bytes in protocol 2) are recognised by name and arguments.
"""

import math
import pickletools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_OPCODES = 300_000  # an official file has about 40,000, one that Python 3 wrote in protocol 2 about 110,000
MARK = object()
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "MARK": MARK, "EMPTY_TUPLE": ()}
NUMBERS = frozenset({"INT", "BININT", "BININT1", "BININT2", "LONG1"})
TEXTS = frozenset({"BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES"})
PYTHON_2_STRINGS = frozenset({"BINSTRING", "SHORT_BINSTRING"})
DTYPES: dict[str, np.dtype[Any]] = {"u1": np.dtype("u1"), "i8": np.dtype("<i8")}


@dataclass(frozen=True)
class Name:
    """A global that a pickle mentions."""

    module: str
    name: str


RECONSTRUCT = frozenset(Name(module, "_reconstruct") for module in ("numpy.core.multiarray", "numpy._core.multiarray"))
NDARRAY, DTYPE, ENCODE = Name("numpy", "ndarray"), Name("numpy", "dtype"), Name("_codecs", "encode")
NAMES = RECONSTRUCT | {NDARRAY, DTYPE, ENCODE}


@dataclass
class Array:
    """A numpy array: it is made empty and gets its values later."""

    values: NDArray[Any] | None = None


def read_batch(content: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The images and labels of a pickled batch.

    Args:
        content: a pickled dictionary with b"data", a numpy array, and b"labels", a list or a numpy array.

    Returns:
        pixels uint8 [N, 3072] and labels int64 [N], 0 to 9.

    Raises:
        ValueError: it is damaged, or holds what no file of CIFAR-10 does; nothing has been executed.
    """
    batch = read_pickle(content)
    if not isinstance(batch, dict) or not {b"data", b"labels"} <= batch.keys():
        raise ValueError("it is no dictionary with data and labels")
    pixels, labels = (
        value.values if isinstance(value, Array) else value for value in map(batch.get, (b"data", b"labels"))
    )
    if isinstance(labels, list):
        if not all(type(label) is int and 0 <= label < 10 for label in labels):
            raise ValueError("its labels are not all numbers from 0 to 9")
        labels = np.array(labels, dtype=np.int64)
    if not isinstance(labels, np.ndarray) or labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError("its labels are no list")
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape != (len(labels), 3072):
        raise ValueError("its data are not 3,072 bytes for each label")
    if len(labels) and not (labels.min() >= 0 and labels.max() < 10):
        raise ValueError("its labels are not all numbers from 0 to 9")
    return pixels, labels.astype(np.int64)


def read_pickle(content: bytes) -> Any:
    """The value of a pickle of protocol 1 to 4: constants, tuples, lists, dictionaries and `Array`.

    Lists and tuples can hold themselves, or each other a million times over: look at one level at a time.

    Raises:
        ValueError: as of `read_batch`.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    num_encoded = 0
    for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if number == MAX_OPCODES:
            raise ValueError(f"it has more than {MAX_OPCODES:,} opcodes")
        try:
            if opcode.name == "STOP":
                return stack.pop()
            if opcode.name == "REDUCE":
                arguments = stack.pop()
                stack.append(call(stack.pop(), arguments))
                num_encoded += len(stack[-1]) if isinstance(stack[-1], bytes) else 0
            else:
                step(opcode.name, argument, stack, memo)
        except (IndexError, KeyError, TypeError, AttributeError):
            raise ValueError(f"its opcode {opcode.name} has nothing to work on") from None
        if num_encoded > len(content):
            raise ValueError("it repeats bytes, which no CIFAR-10 file does")
    raise ValueError("it has no end")


def step(opcode: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    """Carry out one opcode.

    Raises:
        ValueError: it is none that CIFAR-10's files have.
        IndexError, KeyError, TypeError, AttributeError: the stack does not hold what it takes.
    """
    if opcode in NUMBERS or opcode in TEXTS:
        stack.append(argument)
    elif opcode in PYTHON_2_STRINGS:
        stack.append(argument.encode("latin1"))
    elif opcode in CONSTANTS:
        stack.append(CONSTANTS[opcode])
    elif opcode in ("EMPTY_LIST", "EMPTY_DICT"):
        stack.append([] if opcode == "EMPTY_LIST" else {})
    elif opcode in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
        memo[len(memo) if argument is None else argument] = stack[-1]
    elif opcode in ("BINGET", "LONG_BINGET"):
        stack.append(memo[argument])
    elif opcode in ("TUPLE1", "TUPLE2", "TUPLE3"):
        stack.append(tuple(reversed([stack.pop() for _ in range(int(opcode[-1]))])))
    elif opcode == "TUPLE":
        stack.append(tuple(pop_to_mark(stack)))
    elif opcode in ("APPEND", "APPENDS"):
        extend(stack, [stack.pop()] if opcode == "APPEND" else pop_to_mark(stack))
    elif opcode in ("SETITEM", "SETITEMS"):
        extend(stack, [stack.pop(), stack.pop()][::-1] if opcode == "SETITEM" else pop_to_mark(stack))
    elif opcode in ("GLOBAL", "STACK_GLOBAL"):
        module, name = argument.split(" ", 1) if opcode == "GLOBAL" else (stack.pop(-2), stack.pop())
        stack.append(known_name(module, name))
    elif opcode == "BUILD":
        state = stack.pop()
        build(stack[-1], state)
    elif opcode not in ("PROTO", "FRAME"):
        raise ValueError(f"it has the opcode {opcode}, which no CIFAR-10 file has")


def pop_to_mark(stack: list[Any]) -> list[Any]:
    """Take what lies above the last mark, and the mark; in time proportional to what is taken."""
    items = []
    while (item := stack.pop()) is not MARK:
        items.append(item)
    return items[::-1]


def extend(stack: list[Any], items: list[Any]) -> None:
    """Put items into the list, or keys and values into the dictionary, on top of the stack."""
    if isinstance(stack[-1], list):
        stack[-1].extend(items)
        return
    keys, values = items[::2], items[1::2]
    if (
        not isinstance(stack[-1], dict)
        or len(keys) != len(values)
        or not all(type(key) in (bytes, str) for key in keys)
    ):
        raise TypeError  # other keys can take for ever to hash
    stack[-1].update(zip(keys, values, strict=True))


def known_name(module: object, name: object) -> Name:
    """The global of this name, which is one that CIFAR-10's files mention.

    Raises:
        ValueError: it is another.
    """
    if type(module) is not str or type(name) is not str or Name(module, name) not in NAMES:
        raise ValueError(f"it asks for {f'{module}.{name}'[:60]!a}, which no CIFAR-10 file does")
    return Name(module, name)


def call(function: Any, arguments: Any) -> Array | bytes | str:
    """What a call in CIFAR-10's files gives: an array without values, the code of a dtype, or bytes.

    Raises:
        ValueError: it is another call.
    """
    if type(function) is not Name or type(arguments) is not tuple or not arguments:
        raise TypeError
    if function in RECONSTRUCT and arguments == (NDARRAY, (0,), b"b"):
        return Array()
    if function == DTYPE and as_text(arguments[0]) in DTYPES:
        return as_text(arguments[0])
    if function == ENCODE and type(arguments[0]) is str and arguments[1:] == ("latin1",):
        return arguments[0].encode("latin1")
    raise ValueError(f"it calls {function.module}.{function.name} otherwise than CIFAR-10's files do")


def build(target: Any, state: Any) -> None:
    """Give an array its values, or a dtype its byte order, which must be little-endian or not matter.

    Raises:
        ValueError: the values are of another dtype than u1 and i8, or do not fit their shape.
    """
    if isinstance(target, Array):
        _, shape, code, fortran, values = state
        if type(code) is not str or code not in DTYPES or type(values) is not bytes or type(shape) is not tuple:
            raise ValueError("it has an array of other than u1 or i8")
        dtype = DTYPES[code]
        is_shape = len(shape) in (1, 2) and all(type(length) is int and length >= 0 for length in shape)
        if not is_shape or math.prod(shape) * dtype.itemsize != len(values):
            raise ValueError("it has an array whose bytes do not fit its shape")
        target.values = np.frombuffer(values, dtype).reshape(shape, order="F" if fortran is True else "C")
    elif type(target) is not str or target not in DTYPES or as_text(state[1]) not in ("|", "<"):
        raise ValueError("it sets the state of other than arrays and little-endian dtypes")


def as_text(value: object) -> str:
    """A string of Python 2 or 3; "" of anything else."""
    return value.decode("latin1") if type(value) is bytes else value if type(value) is str else ""
