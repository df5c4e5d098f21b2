"""The named recipes, as functions: what each costs and gives stands with it, as measured."""

from collections.abc import Callable

from cifar.recipes.cnn import any_network, cnn
from cifar.recipes.resnet import resnet, resnet_better
from cifar.recipes.schema import TTA, Augment, Holdout, Network, Optimiser, Recipe, Schedule
from cifar.recipes.speednet import speednet, speednet_95, speednet_quick, speednet_reference
from cifar.recipes.text import (
    FIELDS,
    from_mapping,
    parse_recipe,
    read_recipe,
    to_json,
    to_mapping,
    with_fields,
    with_settings,
)
from cifar.recipes.unused import typed_recipe
from cifar.recipes.vit import previt, previt_cpu, vit, vit_plain

__all__ = [
    "FIELDS", "RECIPES", "TTA", "Augment", "Holdout", "Network", "Optimiser", "Recipe", "Schedule", "any_network",
    "from_mapping", "parse_recipe", "read_recipe", "recipe_for", "to_json", "to_mapping", "typed_recipe", "with_fields",
    "with_settings",
]  # fmt: skip

RECIPES: dict[str, Callable[[], Recipe]] = {
    "cnn": cnn,
    "resnet": resnet,
    "resnet-better": resnet_better,
    "vit": vit,
    "vit-plain": vit_plain,
    "previt": previt,
    "previt-cpu": previt_cpu,
    "speednet": speednet,
    "speednet-quick": speednet_quick,
    "speednet-95": speednet_95,
    "speednet-reference": speednet_reference,
}


def recipe_for(name: str) -> Recipe:
    """The recipe of that name, or, for a model's name, the recipe of its family with that model in it.

    "resnet" is the recipe; "resnet56" is that recipe with another network; "timm:NAME" and "package.module:function"
    get `any_network`. Whether the model exists is for `cifar.models` to say.
    """
    if name in RECIPES:
        return RECIPES[name]()
    if ":" in name:
        return with_fields(any_network(), model=name)
    family = next((known for known in RECIPES if name.startswith(known)), None)
    return with_fields(RECIPES[family]() if family else any_network(), model=name)
