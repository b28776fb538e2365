"""Pareto fronts: the results that no other one beats in both cost and accuracy. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def pareto_front(items: Iterable[T], *, cost: Callable[[T], float], value: Callable[[T], float]) -> list[T]:
    """Return the items that no other item dominates, by increasing cost and value.

    An item is dominated if another one costs no more and has at least its value; of equal items the first one stays.
    """
    front: list[T] = []
    for item in sorted(items, key=lambda each: (cost(each), -value(each))):
        if not front or value(item) > value(front[-1]):
            front.append(item)
    return front
