"""Alerts and dashboard of `deploy/` against a real scrape: every metric and every label of their queries exists."""

import json
from functools import cache
from pathlib import Path

import httpx
import promql_parser
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.parser import text_string_to_metric_families

from core.broker import Broker
from core.store import counters, workers

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes" / "components" / "monitoring"
OF_THE_TARGET = {"instance", "job"}  # labels that Prometheus adds


def rules():
    document = yaml.safe_load((FOLDER / "rules.yaml").read_text())
    return [(rule["alert"], rule["expr"]) for group in document["spec"]["groups"] for rule in group["rules"]]


@cache
def dashboard():
    return json.loads((FOLDER / "dashboard.json").read_text())


def panels():
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries():
    """Return the expressions of alerts and panels, with Grafana's interval filled in."""
    of_panels = [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]
    return [(title, expr.replace("$__rate_interval", "5m")) for title, expr in [*rules(), *of_panels]]


def selectors(expr, labels=frozenset()):
    """Yield metric and used labels of each selector of a PromQL expression."""
    match expr:
        case promql_parser.VectorSelector():
            yield expr.name, labels | {matcher.name for matcher in expr.matchers.matchers}
        case promql_parser.MatrixSelector():
            yield from selectors(expr.vector_selector, labels)
        case promql_parser.AggregateExpr():
            yield from selectors(expr.expr, labels | set(expr.modifier.labels if expr.modifier else ()))
        case promql_parser.BinaryExpr():
            for side in (expr.lhs, expr.rhs):
                yield from selectors(side, labels)
        case promql_parser.Call():
            for argument in expr.args:
                yield from selectors(argument, labels)
        case promql_parser.ParenExpr() | promql_parser.UnaryExpr():
            yield from selectors(expr.expr, labels)
        case _:
            assert isinstance(expr, promql_parser.NumberLiteral | promql_parser.StringLiteral), expr


@pytest.fixture(scope="module")
def scraped(make_server, module_valkey):
    """Labels by sample name of a scrape in which every stored metric has an observation."""
    server = make_server(Broker(module_valkey.url), broker_url=module_valkey.url)
    httpx.get(f"{server.url}/healthz", trust_env=False)
    with server.database.write() as session:
        workers.register(session, worker_id="wrk_s", role="scheduler", host="h", pid=1)
        counters.record(
            session,
            [counters.Observation(metric, tuple("x" for _ in metric.labels)) for metric in counters.METRICS],
        )
    text = httpx.get(f"{server.url}/metrics", trust_env=False, timeout=30).text
    labels = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


def test_every_query_reads_metrics_and_labels_that_exist(scraped):
    assert len(queries()) > 40
    for title, expr in queries():
        found = list(selectors(promql_parser.parse(expr)))
        assert found, title
        for name, labels in found:
            assert name in scraped, f"{title}: {name}"
            assert labels <= scraped[name] | OF_THE_TARGET, f"{title}: {name} has no {labels - scraped[name]}"


def test_every_counter_is_on_the_dashboard_or_in_an_alert(scraped):
    used = {name for _, expr in queries() for name, _ in selectors(promql_parser.parse(expr))}

    assert {name for name in scraped if name.startswith("potstill_") and name.endswith("_total")} <= used


def test_the_dashboard_follows_the_schema_of_grafana():
    register_default_plugins()
    document = dashboard()
    parsed = json.loads(JSONEncoder().encode(Dashboard.from_json(json.loads(json.dumps(document)))))

    assert lost(document, parsed) == []  # unknown fields do not survive
    ids = [panel["id"] for panel in document["panels"]]
    assert len(set(ids)) == len(ids)
    assert all(panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"} for panel in panels())
    assert not overlapping(document["panels"])


def lost(document, parsed, at=""):
    """Return the paths of values that differ after a round trip through the schema."""
    if isinstance(document, dict) and isinstance(parsed, dict):
        return [path for key in document for path in lost(document[key], parsed.get(key), f"{at}/{key}")]
    if isinstance(document, list) and isinstance(parsed, list) and len(document) == len(parsed):
        return [path for k, item in enumerate(document) for path in lost(item, parsed[k], f"{at}/{k}")]
    return [] if document == parsed else [at]


def overlapping(panels_):
    """Return the cells of the grid that two panels cover."""
    cells = [
        (x, y)
        for panel in panels_
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    return len(cells) != len(set(cells))


def test_metrics_without_a_database_are_those_of_the_process(make_server, monkeypatch):
    from core.store.db import DatabaseUnavailable

    server = make_server()

    def fail():
        raise DatabaseUnavailable("down")

    monkeypatch.setattr(server.database, "read", fail)
    text = httpx.get(f"{server.url}/metrics", trust_env=False, timeout=30).text

    assert 'potstill_part_up{part="database"} 0.0' in text
    assert "potstill_job_failures_total" not in text
    assert "process_resident_memory_bytes" in text
