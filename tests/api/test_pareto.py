"""Pareto fronts."""

from api.pareto import pareto_front


def test_the_front_has_the_items_that_no_other_beats():
    items = [(3, 0.8), (1, 0.5), (2, 0.4), (3, 0.9), (4, 0.9), (1, 0.5)]

    assert pareto_front(items, cost=lambda item: item[0], value=lambda item: item[1]) == [(1, 0.5), (3, 0.9)]
    assert pareto_front([], cost=float, value=float) == []
