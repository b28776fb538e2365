"""Relative costs come from the table of measurements; unmeasured methods have none."""

import json

import pytest

from core.spec import METHODS, costs


@pytest.fixture
def save_costs(tmp_path, monkeypatch):
    """Replaces the table of measured costs."""

    def save(table):
        monkeypatch.setattr(costs, "COSTS", tmp_path / "costs.json")
        costs.COSTS.write_text(costs.format_costs(table, measured_on="a test"))
        costs._measured_costs.cache_clear()

    yield save
    costs._measured_costs.cache_clear()


def test_only_measured_methods_have_a_cost(save_costs):
    save_costs({"kd": 1.2345})

    assert costs.relative_cost("kd") == 1.23
    assert costs.relative_cost("dkd") is None


def test_the_table_names_existing_methods():
    table = json.loads(costs.COSTS.read_text())["relative_to_scratch"]

    assert set(table) <= set(METHODS)
    assert all(cost > 0 for cost in table.values())
    assert table.get("scratch", 1.0) == 1.0
