"""Recipes as JSON and as typed settings: one flat list of names over all groups."""

import dataclasses
import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cifar.errors import InputError, WorldError
from cifar.files import read_regular
from cifar.recipes.schema import LEAST, Recipe

ADAPTER = TypeAdapter(Recipe)
MAX_BYTES = 2**20  # of a recipe.json
GROUPS = ("network", "optimiser", "schedule", "augment", "tta", "holdout")
LONGEST = 60  # characters of a value that an error repeats
# Fields that recorded recipes hold and that no longer decide a result. A file with another value than these cannot be
# repeated, and is refused.
RETIRED: dict[str, tuple[object, ...]] = {
    "window": (0,),  # training on windows of the images, no better than smaller images (`docs/log.md`)
    "window_epochs": (0,),
    "winograd": (False, True),  # now the machine's: `cifar train --kernels`
    "compile": ("no", "auto", "yes"),  # now the machine's: `cifar train --compile`
}


def flat_fields() -> dict[str, tuple[str, str]]:
    """Flat name of each field of a recipe → its group ("" for the recipe itself) and its name there.

    The flat name is the field's own, but for `kind`, which is the group's: "optimiser" is `recipe.optimiser.kind`.
    """
    fields: dict[str, tuple[str, str]] = {}
    for outer in dataclasses.fields(Recipe):
        if outer.name not in GROUPS:
            fields[outer.name] = ("", outer.name)
            continue
        group: Any = outer.type
        for inner in dataclasses.fields(group):
            fields[outer.name if inner.name == "kind" else inner.name] = (outer.name, inner.name)
    return fields


FIELDS = flat_fields()


def default_of(name: str) -> object:
    """The default of a field of a group, by its flat name."""
    group, inner = FIELDS[name]
    kind: Any = next(field.type for field in dataclasses.fields(Recipe) if field.name == group)
    return next(field.default for field in dataclasses.fields(kind) if field.name == inner)


def to_mapping(recipe: Recipe) -> dict[str, Any]:
    """All fields of a recipe by their flat names, JSON-ready."""
    values = dataclasses.asdict(recipe)
    return {flat: values[group][name] if group else values[name] for flat, (group, name) in FIELDS.items()}


def to_json(recipe: Recipe) -> str:
    """The text of recipe.json."""
    return json.dumps(to_mapping(recipe), indent=2) + "\n"


def with_fields(recipe: Recipe, **changes: object) -> Recipe:
    """The recipe with other values, by flat names: `with_fields(recipe, lr=0.1, epochs=50)`.

    Raises:
        InputError: no such field (names the nearest), or a value that is not valid.
    """
    for name in changes:
        check_field(name)
    return build(to_mapping(recipe) | changes)


def with_settings(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """The recipe with fields replaced by "field=value" or "group.field=value", as typed after --set.

    Raises:
        InputError: no such field (names the nearest), or a value that is not valid.
    """
    return with_fields(recipe, **typed_changes(settings))


def typed_changes(settings: Sequence[str]) -> dict[str, object]:
    """What was typed after --set, by flat names.

    Raises:
        InputError: no such field (names the nearest), or no value.
    """
    changes: dict[str, object] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"--set {as_typed(setting)}: write it as field=value.")
        changes[flat_name(name.strip().replace("-", "_"))] = text.strip()
    return changes


def flat_name(name: str) -> str:
    """The flat name of a field typed with or without its group: "optimiser.lr" is "lr".

    Raises:
        InputError: no such field; names the nearest.
    """
    by_path = {f"{group}.{inner}": flat for flat, (group, inner) in FIELDS.items()}
    flat = by_path.get(name, name)
    check_field(flat)
    return flat


def check_field(name: str) -> None:
    """Refuse a name that no field has.

    Raises:
        InputError: names the nearest field and all of them.
    """
    if name not in FIELDS:
        near = difflib.get_close_matches(name, FIELDS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(f"A recipe has no field {name!r}.{hint} The fields are {', '.join(FIELDS)}.")


def build(values: Mapping[str, object], *, strict: bool = False) -> Recipe:
    """The recipe with these values, by flat names; what is left out has its default.

    Args:
        values: typed values, or text where `strict` is false.
        strict: take a value only in its own JSON type: no "3" for 3, no 1 for true.

    Raises:
        InputError: the first value that is not valid, and what is.
    """
    nested: dict[str, Any] = {group: {} for group in GROUPS}
    for flat, value in values.items():
        group, name = FIELDS[flat]
        (nested[group] if group else nested)[name] = value
    try:
        if strict:
            return ADAPTER.validate_json(json.dumps(nested), strict=True)
        return ADAPTER.validate_python(nested)
    except ValidationError as error:
        raise InputError(sentence(error, strict=strict)) from None


def sentence(error: ValidationError, *, strict: bool) -> str:
    """The first fault of a recipe in words: the field, its value, and what is valid.

    Args:
        error: of pydantic.
        strict: as of `build`; else text is shown as it was typed.
    """
    fault = error.errors()[0]
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    path = tuple(str(part) for part in fault["loc"])
    field = next((flat for flat, place in FIELDS.items() if tuple(filter(None, place)) == path[:2]), "")
    if not field:  # a text that is no Unicode makes the whole no JSON
        return "a value is no text."
    if fault["type"] == "missing":
        return f"The recipe lacks {field}."
    value = as_typed(repr(fault["input"]) if strict else f"{fault['input']}")
    return f"{field} is {value}: it must be {valid_values(fault)}."


def as_typed(text: str) -> str:
    """What was typed, for an error: on one line and not too long."""
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def valid_values(fault: Mapping[str, Any]) -> str:
    """What a field takes, after one of pydantic's faults."""
    context = fault.get("ctx", {})
    kind = fault["type"]
    words = {
        "greater_than": "greater than {gt}",
        "greater_than_equal": "{ge} or more",
        "less_than": "less than {lt}",
        "less_than_equal": "at most {le}",
        "literal_error": "one of {expected}",
        "finite_number": "a finite number",
        "string_too_short": "a name",
        "string_too_long": "at most {max_length} characters long",
        "int_parsing_size": "a smaller number",
        "tiny": f"at least {LEAST:g}, where it is not 0",
    }
    if kind in words:
        shown = {name: f"{value:g}" if isinstance(value, float) else value for name, value in context.items()}
        return words[kind].format(**shown)
    for start, what in (("int", "a whole number"), ("float", "a number"), ("bool", "true or false")):
        if kind.startswith(start):
            return what
    return "text"


def from_mapping(values: Mapping[str, Any], *, origin: str) -> Recipe:
    """The recipe that `to_mapping` gave; fields that are newer than it have their defaults, retired ones are left out.

    Args:
        values: by flat names.
        origin: names the file in an error.

    Raises:
        InputError: a field that does not exist, is missing or not valid, or a retired one that decided the result.
    """
    for name, value in values.items():
        if name in RETIRED and value not in RETIRED[name]:
            raise InputError(f"{origin}: {name} is {value!r}, which this version cannot repeat.")
    try:
        current = {name: value for name, value in values.items() if name not in RETIRED}
        for name in current:
            check_field(name)
        return build(current, strict=True)
    except InputError as error:
        raise InputError(f"{origin}: {error}") from None


def read_recipe(path: Path) -> Recipe:
    """The recipe in a JSON file.

    Raises:
        WorldError: the file cannot be read.
        InputError: it holds no recipe.
    """
    try:
        content = read_regular(path, limit=MAX_BYTES)
    except OSError as error:
        raise WorldError(f"{path}: {error.strerror or error}; name a readable recipe.json.") from None
    return parse_recipe(content, origin=str(path))


def parse_recipe(content: bytes, *, origin: str) -> Recipe:
    """The recipe in the content of a JSON file.

    Args:
        content: of the file.
        origin: names the file in an error.

    Raises:
        InputError: it holds no recipe.
    """
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        raise InputError(f"{origin} is not JSON; a recipe is what `cifar train --dry-run` prints.") from None
    if not isinstance(values, dict):
        raise InputError(f"{origin} holds no recipe: it must be a JSON object.")
    return from_mapping(values, origin=origin)
