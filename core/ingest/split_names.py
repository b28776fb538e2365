"""Recognize the names of splits: ``train``, ``seg_test``, ``val2017``, ``my-dev-set``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

SplitRole = Literal["train", "val", "dev", "eval", "test", "predict"]

TRAIN_ORDER: tuple[SplitRole, ...] = ("train", "val", "dev", "eval", "test")  # the first that exists is trained on
TEST_ORDER: tuple[SplitRole, ...] = ("test", "val", "eval", "dev")  # the first that is left is tested on

_ROLES: dict[str, SplitRole] = {
    "train": "train",
    "training": "train",
    "trainval": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "eval": "eval",
    "evaluation": "eval",
    "dev": "dev",
    "pred": "predict",
    "predict": "predict",
    "prediction": "predict",
    "predictions": "predict",
    "inference": "predict",
    "unlabeled": "predict",
    "unlabelled": "predict",
}
_FILLERS = frozenset({"set", "data", "dataset", "images", "image", "imgs", "img", "split"})
_GLUED = re.compile(r"(.+?)(?:set|data|images|imgs)")
_WORDS = re.compile(r"[^\W\d_]+|\d+")
_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class SplitName:
    """A folder or table name that contains the name of a split.

    Attributes:
        role: The split.
        word: The word that names it, in lower case.
        exact: The whole name is that word.
        rest: The other words, without numbers and fillers such as ``images``: equal for the splits of one dataset.
    """

    role: SplitRole
    word: str
    exact: bool
    rest: tuple[str, ...]


def split_name(name: str) -> SplitName | None:
    """Find a split in a name; None if it contains none, or two different ones (``train_test_split``).

    Words end at ``_``, ``-``, ``.``, spaces, digits and CamelCase. ``train_val`` is a training split, as in VOC.
    """
    words = [word.casefold() for word in _WORDS.findall(_CAMEL_CASE.sub(" ", name))]
    found = [(index, role_word) for index, word in enumerate(words) if (role_word := _role_word(word)) is not None]
    roles = {_ROLES[word] for _, word in found}
    if not roles or (len(roles) > 1 and roles != {"train", "val"}):
        return None
    role: SplitRole = "train" if len(roles) > 1 else roles.pop()
    taken = {index for index, _ in found}
    rest = tuple(w for i, w in enumerate(words) if i not in taken and w not in _FILLERS and not w.isdecimal())
    return SplitName(role, found[0][1], name.casefold() == found[0][1], rest)


def _role_word(word: str) -> str | None:
    if word in _ROLES:
        return word
    glued = _GLUED.fullmatch(word)
    return glued[1] if glued is not None and glued[1] in _ROLES else None
