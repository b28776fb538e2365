"""Find the image, label and split columns of a Parquet table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import types

from core.ingest.paths import NotAccepted, clean_label, printable_name
from core.ingest.source_files import LABEL_NAMES, Labels
from core.ingest_errors import TableUnclear

IMAGE_NAMES = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp")
SPLIT_NAME = "split"


@dataclass(frozen=True, slots=True)
class Columns:
    """Column names. ``class_names`` are the declared classes in label order, or None.

    ``label_kind`` is ``number``, ``boolean`` or ``string``; ``none`` without labels.
    """

    image: str
    image_is_struct: bool
    label: str | None
    label_kind: str
    class_names: tuple[str, ...] | None
    split: str | None

    @property
    def leaf_paths(self) -> list[str]:
        """Schema paths of the columns to read."""
        image = f"{self.image}.bytes" if self.image_is_struct else self.image
        return [image, *(name for name in (self.label, self.split) if name is not None)]


def find_columns(schema: pa.Schema, *, labels: Labels) -> Columns:
    """Find the columns from the metadata of the hub's ``datasets``, else from their types and names.

    The image is encoded bytes or a struct with the field ``bytes``. A label is a number, a boolean or a string. Floats
    and decimals are labels by the name of their column only, and must be whole: pandas writes integers with gaps so.

    Raises:
        NotAccepted: No column holds images.
        TableUnclear: Several columns are possible, or the label column holds lists or other types.
    """
    features = _hub_features(schema)
    image = _choose_column(
        "image",
        [name for name in _declared_columns(features, "Image") if _is_image(schema, name)],
        [name for name in schema.names if _is_image(schema, name)],
        IMAGE_NAMES,
    )
    if image is None:
        raise NotAccepted(
            "no column of the Parquet file holds encoded images (bytes, or a struct with the field bytes); "
            f"its columns are {printable_name(', '.join(schema.names))}",
            code="table_unclear",
        )
    label = None if labels == "none" else _label_column(schema, features)
    names = None if label is None else _class_names(features.get(label))
    label_kind = "none" if label is None else _label_kind(schema, label)
    return Columns(
        image=image,
        image_is_struct=types.is_struct(schema.field(image).type),
        label=label,
        label_kind=label_kind,
        class_names=names if label_kind == "number" else None,
        split=SPLIT_NAME if SPLIT_NAME in schema.names and _is_text(schema.field(SPLIT_NAME).type) else None,
    )


def _label_column(schema: pa.Schema, features: dict[str, Any]) -> str | None:
    labels = [name for name in schema.names if _label_kind(schema, name) != "none" and name != SPLIT_NAME]
    declared = [name for name in _declared_columns(features, "ClassLabel") if name in labels]
    known = [name for name in LABEL_NAMES if name in labels]
    chosen = _choose_column("label", declared, known[:1], LABEL_NAMES)
    if chosen is None:
        _refuse_other_labels(schema)
    usable = [name for name in labels if not _is_fractional(_value_type(schema, name))]
    if chosen is None and usable:
        raise TableUnclear(
            f"several columns may be the label ({printable_name(', '.join(usable))}); name it {LABEL_NAMES[0]}, "
            "or set labels to none for a dataset without classes"
        )
    return chosen


def _choose_column(
    role: str, declared: Sequence[str], candidates: Sequence[str], preferred_names: Sequence[str]
) -> str | None:
    """Choose the only column, else the first preferred name; declared columns come before other candidates."""
    group = declared or candidates
    if len(group) <= 1:
        return group[0] if group else None
    named = [name for name in preferred_names if name in group]
    if not named:
        raise TableUnclear(
            f"several columns may be the {role} ({printable_name(', '.join(group))}); name it {preferred_names[0]}"
        )
    return named[0]


def _is_image(schema: pa.Schema, name: str) -> bool:
    kind = schema.field(name).type
    if types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _is_bytes(kind.field(index).type)
    return _is_bytes(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _refuse_other_labels(schema: pa.Schema) -> None:
    """Raise :class:`TableUnclear` if the column that is named like a label has no type of labels, such as a list."""
    for name in LABEL_NAMES:
        if name in schema.names and not types.is_null(schema.field(name).type) and not _is_image(schema, name):
            raise TableUnclear(
                f"the column {name} has the type {printable_name(str(schema.field(name).type))}; a label is one whole "
                "number, text or boolean per image. Rewrite the column, or set labels to none"
            )


def _value_type(schema: pa.Schema, name: str) -> pa.DataType:
    """Type of a column's values, without the dictionary encoding."""
    kind = schema.field(name).type
    return kind.value_type if types.is_dictionary(kind) else kind


def _is_fractional(kind: pa.DataType) -> bool:
    return bool(types.is_floating(kind) or types.is_decimal(kind))


def _is_text(kind: pa.DataType) -> bool:
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _label_kind(schema: pa.Schema, name: str) -> str:
    kind = _value_type(schema, name)
    if types.is_integer(kind) or _is_fractional(kind):
        return "number"
    if types.is_boolean(kind):
        return "boolean"
    return "string" if _is_text(kind) else "none"


def _hub_features(schema: pa.Schema) -> dict[str, Any]:
    """Column metadata written by the hub's ``datasets``; empty for other writers."""
    try:
        document = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = document["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _declared_columns(features: dict[str, Any], kind: str) -> list[str]:
    return [name for name, feature in features.items() if isinstance(feature, dict) and feature.get("_type") == kind]


def _class_names(feature: Any) -> tuple[str, ...] | None:
    names = feature.get("names") if isinstance(feature, dict) else None
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TableUnclear("the class names in the Parquet file are not a list of strings; write the file again")
    try:
        cleaned = tuple(clean_label(name) for name in names)
    except NotAccepted as error:
        raise TableUnclear(f"a class name in the Parquet file is invalid: {error}") from None
    if len(set(cleaned)) < len(cleaned):
        raise TableUnclear("two classes in the Parquet file have the same name; rename one of them")
    return cleaned
