"""Comparison of class names: logits are matched by position, so a class must have the same one on both sides."""

from __future__ import annotations

import re
from collections.abc import Sequence


def misplaced_class(own: Sequence[str], classes: Sequence[str]) -> tuple[int, int] | None:
    """Return the positions, in ``own`` and in ``classes``, of the first class that both have at different ones."""
    first, second = comparable_names(own), comparable_names(classes)
    positions = {name: position for position, name in enumerate(second)}
    return next(
        ((here, positions[name]) for here, name in enumerate(first) if positions.get(name, here) != here),
        None,
    )


def comparable_names(names: Sequence[str]) -> list[str]:
    """Return the names without case, spaces, hyphens and underscores, as long as they stay distinct."""
    plain = [re.sub(r"[\s_-]+", " ", name.casefold()).strip() for name in names]
    return plain if len(set(plain)) == len(plain) else list(names)
