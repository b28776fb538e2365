"""Constructor arguments of a model: completed from the dataset, and validated.

Checked here are arguments that timm accepts but a client must not set, and sizes that would exhaust memory or time.
``core.models.argument_values`` checks types and ranges.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from core.errors import InvalidSpec
from core.models import catalog
from core.models.argument_values import check_values
from core.spec import ModelSpec
from core.spec.info import InputInfo

# Not properties of a classifier: they change the type of model, its device or its weights.
_REFUSED = frozenset(
    """cache_dir checkpoint_path device dtype exportable feature_cfg feature_cls features_only img_layer kwargs_filter
    model_cfg no_jit out_indices pretrained pretrained_cfg pretrained_cfg_overlay pretrained_filter_fn
    pretrained_model_args pretrained_strict pruned scriptable use_naflex""".split()  # noqa: SIM905 - one word a line would be a page
)
_TRAINING_ARGUMENTS = {"drop_path_rate": "training.drop_path"}
MAX_NUMBER = 65_536  # above every width, size or count of a real model
MAX_LENGTH = 64
MAX_DEPTH = 256  # blocks are built one by one, so a huge depth takes time even on the meta device


def model_arguments(spec: ModelSpec, dataset: InputInfo, image_size: int) -> dict[str, Any]:
    """Return all arguments of ``timm.create_model`` for ``spec`` on this dataset.

    ``img_size`` is added if the architecture takes it. The trainer adds ``drop_path_rate``.

    Raises:
        InvalidSpec: An argument is not accepted, or ``img_size`` differs from ``image_size``.
    """
    check_arguments(spec.arguments, pointer="/arguments")
    architecture = catalog.require(spec.architecture_name)
    given_arguments = {name: value for name, value in spec.arguments.items() if value is not None}
    arguments = check_values(architecture, given_arguments, pointer="/arguments")
    arguments["num_classes"] = dataset.num_classes or 0
    arguments["in_chans"] = dataset.channels
    given = square_size(arguments.get("img_size"), pointer="/arguments/img_size")
    if given is not None and given != image_size:
        raise InvalidSpec.for_field(
            "/arguments/img_size", f"img_size {given} and image_size {image_size} differ; give one of them"
        )
    if given is not None or catalog.takes_image_size(architecture):
        arguments["img_size"] = image_size
    return arguments


def check_arguments(arguments: Mapping[str, Any], *, pointer: str) -> None:
    """Validate arguments from a client.

    Raises:
        InvalidSpec: With the pointer of the first argument that is not one of a classifier, or is too large.
    """
    for name, value in arguments.items():
        where = f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"
        if name in _REFUSED or name.startswith("_"):
            raise InvalidSpec.for_field(where, f"{name[:80]} is not accepted here")
        if name in _TRAINING_ARGUMENTS:
            raise InvalidSpec.for_field(where, f"{name} belongs to the training; use {_TRAINING_ARGUMENTS[name]}")
        if name == "weight_init" and value == "skip":
            raise InvalidSpec.for_field(where, "weight_init skip leaves weights undefined; leave it out")
        numbers = [abs(number) for number in _numbers(value)]
        if re.search(r"depth|layers|blocks", name) and sum(numbers) > MAX_DEPTH:
            raise InvalidSpec.for_field(where, f"at most {MAX_DEPTH} blocks are accepted")
        if max(numbers, default=0) > MAX_NUMBER:
            raise InvalidSpec.for_field(where, f"numbers of at most {MAX_NUMBER} are accepted")
        if len(numbers) > MAX_LENGTH:
            raise InvalidSpec.for_field(where, f"at most {MAX_LENGTH} numbers are accepted")


def square_size(value: Any, *, pointer: str) -> int | None:
    """Return ``img_size`` as pixels a side: an integer or two equal ones. Raises InvalidSpec for other values."""
    if value is None:
        return None
    sides = value if isinstance(value, list | tuple) else [value]
    if len(sides) in {1, 2} and all(type(side) is int and side == sides[0] for side in sides):
        side = int(sides[0])
        if 1 <= side <= MAX_NUMBER:
            return side
    raise InvalidSpec.for_field(pointer, "img_size is a whole number of pixels a side; images are square")


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _numbers(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from _numbers(part)
