"""A short version of `make chaos`."""

import json

import pytest

from tests.chaos.__main__ import main

SEED = 7


@pytest.mark.slow
def test_kills_on_a_running_stack_cost_only_time(tmp_path, capsys):
    report = tmp_path / "report.json"
    arguments = ["--n", "2", "--seed", str(SEED), "--epochs", "15", "--json", str(report)]
    status = main([*arguments, "--targets", "pool,scheduler", "--signals", "SIGKILL"])
    output = capsys.readouterr().out

    assert status == 0, output
    assert output.startswith(f"seed {SEED}: 2 hits, sqlite")
    hits = json.loads(report.read_text())["hits"]
    assert {hit["target"]: hit["attempt_after"] - hit["attempt"] for hit in hits} == {
        "pool": 1,
        "scheduler": 0,
    }
    assert all(hit["lowest_step"] >= hit["checkpoint"] > 0 for hit in hits)
