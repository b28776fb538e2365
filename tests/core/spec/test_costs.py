"""What a method costs is what was measured, and unknown otherwise."""

import json

import pytest

from core.spec import METHODS, costs


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Takes a table in place of the measured one."""

    def take(table):
        monkeypatch.setattr(costs, "COSTS", tmp_path / "costs.json")
        costs.COSTS.write_text(costs.costs_document(table, measured_on="a test"))
        costs._measured.cache_clear()

    yield take
    costs._measured.cache_clear()


def test_a_measured_cost_is_told_and_another_is_not_known(measured):
    measured({"kd": 1.2345})

    assert costs.relative_cost("kd") == 1.23
    assert costs.relative_cost("dkd") is None


def test_the_table_is_of_methods_that_there_are():
    table = json.loads(costs.COSTS.read_text())["relative_to_scratch"]

    assert set(table) <= set(METHODS)
    assert all(cost > 0 for cost in table.values())
    assert table.get("scratch", 1.0) == 1.0
