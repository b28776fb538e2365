"""Read a job spec that is written in JSON or YAML 1.2.

PyYAML follows YAML 1.1, where `no` is a boolean, `010` is 8, `1:30` is 90 and `1e-3` is text. Here scalars have the
values of YAML 1.2, as in JSON. `core.spec.spec_text` has the same rules: it is part of
another distribution, and neither may need the other. A test compares the two.
"""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

_TAG = "tag:yaml.org,2002:"

# The core schema of YAML 1.2, and merge keys: type, pattern, first characters (an empty one: the empty scalar).
_SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),
)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the types of JSON and the scalars of YAML 1.2."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - PyYAML's name
    yaml_constructors = {  # noqa: RUF012
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.removeprefix("tag:yaml.org,2002:") in ("null", "bool", "str", "seq", "map")
    }


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return int(text, 0) if text.startswith(("0o", "0x")) else int(text)


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node)).lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


for _type, _pattern, _first_characters in _SCALARS:
    _Loader.add_implicit_resolver(_TAG + _type, re.compile(rf"(?:{_pattern})\Z"), _first_characters)
_Loader.add_constructor(_TAG + "int", _construct_int)
_Loader.add_constructor(_TAG + "float", _construct_float)


def parse_document(text: str) -> Any:
    """Return the value of a JSON or YAML document. Raises ``ValueError`` with the position of the error."""
    try:
        return json.loads(text)
    except ValueError as json_error:
        try:
            return yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader
        except (yaml.YAMLError, ValueError) as yaml_error:
            error = json_error if text.lstrip().startswith(("{", "[")) else yaml_error
            raise ValueError(str(error)) from None
