"""What the JSON files of a run folder hold. Each is checked when it is read; a newer version may add fields.

The fields that are marked as not required are absent in runs of older versions, or in runs that did not do that.
"""

import json
import math
from functools import cache
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic wants its own before Python 3.12

from cifar.runs.names import (
    CHECKSUMS,
    CORRUPTIONS,
    CROSSVAL,
    EVALUATION,
    EXPORT,
    REFERENCES,
    STUDY,
    SUMMARY,
    plain_name,
)

CHECKED = with_config(ConfigDict(extra="allow", allow_inf_nan=False, strict=True))

Fraction = Annotated[float, Field(ge=0, le=1 + 1e-6)]  # float32 rounds
Interval = Annotated[list[Fraction], Field(min_length=2, max_length=2)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Fractions = Annotated[list[Fraction], Field(min_length=1, max_length=1000)]
FiveFractions = Annotated[list[Fraction], Field(min_length=5, max_length=5)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Values = dict[str, str | int | float | bool | None]


@CHECKED
class TestEvaluation(TypedDict):
    time: str
    purpose: str


@CHECKED
class Change(TypedDict):
    """A field of the recipe that was changed on purpose by `--resume`, and when."""

    field: str
    before: str | int | float | bool
    after: str | int | float | bool
    epoch: Count
    step: Count


@CHECKED
class Machine(TypedDict):
    processor: str
    cores: Count
    memory_bytes: Count
    gpus: list[str]
    system: str


@CHECKED
class Summary(TypedDict):
    state: NotRequired[Literal["unfinished", "trained", "tested"]]
    finished: bool
    model: str
    recipe: Values
    seed: Count
    epochs: Count
    best_epoch: Count | None
    seconds: NotNegative | None
    sittings: NotRequired[Count]
    images_per_second: NotNegative | None
    parameters: Count | None
    validation_accuracy: Fraction | None
    validation_accuracy_tta: NotRequired[Fraction | None]
    test_accuracy: Fraction | None
    test_interval: Interval | None
    test_readings: list[TestEvaluation]
    weights_sha256: NotRequired[str | None]
    data: str
    data_source: str
    data_sha256: str
    command: str
    device: str
    processes: NotRequired[Count]
    sync_batchnorm: NotRequired[bool]
    precision: str
    compiled: NotRequired[bool]
    kernels: NotRequired[str]
    tf32: NotRequired[bool]
    deterministic: NotRequired[bool]
    threads: NotRequired[Count]
    timing: NotRequired[dict[Literal["start_up", "data", "training", "evaluation", "pictures"], NotNegative]]
    commit: str
    machine: Machine
    versions: dict[str, str]
    num_train: Count
    num_validation: Count
    stopped_early: NotRequired[bool]
    changes: NotRequired[list[Change]]
    skipped_steps: NotRequired[Count]
    wandb_id: NotRequired[str]


PerClass = TypedDict(  # "class" is no name in Python
    "PerClass", {"class": str, "precision": Fraction, "recall": Fraction, "f1": Fraction, "support": Count}
)


@CHECKED
class Bin(TypedDict):
    low: Fraction
    high: Fraction
    count: Count
    confidence: Fraction | None
    accuracy: Fraction | None


@CHECKED
class LossAndCalibration(TypedDict):
    loss: NotNegative
    calibration_error: Fraction
    reliability: NotRequired[list[Bin]]


@CHECKED
class TemperatureScaling(TypedDict):
    temperature: Annotated[float, Field(gt=0)]
    num_fitted: Count
    fitted_accuracy: NotRequired[Fraction]
    before: LossAndCalibration
    after: LossAndCalibration


@CHECKED
class Evaluation(TypedDict):
    run: str
    views: NotRequired[str]
    passes_an_image: NotRequired[Count]
    views_below: NotRequired[Fraction]
    prediction_seconds: NotRequired[NotNegative]
    data: str
    data_sha256: str
    model_sha256: NotRequired[str]
    split: Literal["test", "validation"]
    num_images: Annotated[int, Field(ge=1)]
    accuracy: Fraction
    interval: Interval
    loss: NotNegative
    brier: NotRequired[NotNegative]
    calibration_error: NotRequired[Fraction]
    adaptive_calibration_error: NotRequired[Fraction]
    reliability: NotRequired[list[Bin]]
    per_class: Annotated[list[PerClass], Field(min_length=10, max_length=10)]
    confusion: Annotated[
        list[Annotated[list[Count], Field(min_length=10, max_length=10)]], Field(min_length=10, max_length=10)
    ]
    temperature_scaling: NotRequired[TemperatureScaling | None]


@CHECKED
class Share(TypedDict):
    num_images: Count
    share: Fraction
    interval: Interval


@CHECKED
class People(TypedDict):
    soft_cross_entropy: NotNegative
    soft_cross_entropy_floor: NotNegative
    agreement_with_majority: Share
    majority_agrees_with_label: Share
    entropy_correlation: Annotated[float, Field(ge=-1, le=1)] | None


@CHECKED
class LabelErrors(TypedDict):
    num_unconfirmed: Count
    without_unconfirmed: Share
    num_corrected: Count
    sides_with_correction: Count
    sides_with_label: Count
    sides_with_neither: Count


@CHECKED
class NearDuplicates(TypedDict):
    num_images: Count
    all: Share
    without: Share
    only: Share


@CHECKED
class References(TypedDict):
    run: str
    views: str
    data: str
    data_sha256: str
    people: People
    label_errors: LabelErrors
    near_duplicates: NearDuplicates


@CHECKED
class Corruptions(TypedDict):
    run: str
    views: str
    data: str
    data_sha256: str
    clean_accuracy: Fraction
    what: str
    seed: Count
    mean_accuracy: Fraction
    severity_accuracy: FiveFractions
    accuracy: Annotated[dict[str, FiveFractions], Field(min_length=1)]
    num_sets_generated: Count
    generation_seconds: NotNegative
    prediction_seconds: NotNegative
    cache_bytes: Count


@CHECKED
class FoldFigures(TypedDict):
    folds: Fractions
    mean: Fraction
    std: NotNegative
    interval: Annotated[list[float], Field(min_length=2, max_length=2)]  # Student's may leave 0 to 1


@CHECKED
class Ensemble(TypedDict):
    accuracy: Fraction
    interval: Interval
    loss: NotNegative


@CHECKED
class Crossval(TypedDict):
    finished: bool
    data: str
    data_sha256: str
    recipe: NotRequired[Values]
    num_folds: NotRequired[Annotated[int, Field(ge=2)]]
    validation: NotRequired[FoldFigures]
    test: NotRequired[FoldFigures]
    test_of_averaged_probabilities: NotRequired[Ensemble]
    seconds: NotRequired[NotNegative]


@CHECKED
class Export(TypedDict):
    run: str
    model: str
    classes: list[str]
    data: str
    data_sha256: str
    weights_sha256: str
    temperatures: NotRequired[dict[str, Annotated[float, Field(gt=0)]]]


@CHECKED
class Dimension(TypedDict):
    """What a field of the recipe may be in a study: one of some values, or between two ends."""

    choices: NotRequired[Annotated[list[str | int | float | bool], Field(min_length=1)]]
    low: NotRequired[int | float]
    high: NotRequired[int | float]
    log: NotRequired[bool]


@CHECKED
class Study(TypedDict):
    kind: Literal["seeds", "folds", "search"]
    name: str
    recipe: Values
    space: Annotated[dict[str, Dimension], Field(min_length=1)]
    trials: Annotated[int, Field(ge=1)]
    data: str
    storage: str
    command: str


SCHEMAS: dict[str, Any] = {
    STUDY: Study,
    SUMMARY: Summary,
    EVALUATION: Evaluation,
    REFERENCES: References,
    CORRUPTIONS: Corruptions,
    CROSSVAL: Crossval,
    EXPORT: Export,
    CHECKSUMS: dict[str, Annotated[list[Sha256], Field(min_length=1, max_length=3)]],
}


@cache
def adapter_of(name: str) -> TypeAdapter[dict[str, Any]]:
    """The check of a file, by its plain name; any JSON object where there is no schema."""
    return TypeAdapter(SCHEMAS.get(name, dict[str, Any]))


def parse(content: bytes, *, name: str) -> dict[str, Any]:
    """The JSON object in a file of a run folder.

    Args:
        content: of the file.
        name: of the file, which says what it must hold.

    Raises:
        ValueError: no JSON, or not what such a file holds; a phrase that says which field.
    """
    try:
        value = json.loads(content.decode(), parse_constant=refuse_constant, parse_float=finite)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    try:
        return adapter_of(plain_name(name)).validate_python(value)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in fault["loc"][:4])
        raise ValueError(f"{place}: {fault['msg']}" if place else fault["msg"]) from None


def refuse_constant(text: str) -> float:
    """Refuse NaN and Infinity, which Python's JSON would take."""
    raise ValueError(text)


def finite(text: str) -> float:
    """A number, unless it is too large for one."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value
