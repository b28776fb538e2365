"""A short run of what `make chaos` runs for long."""

import json

from tests.chaos.__main__ import main

SEED = 7


def test_hits_on_a_running_stack_cost_nothing_but_time(tmp_path, capsys):
    report = tmp_path / "report.json"
    arguments = ["--n", "3", "--seed", str(SEED), "--epochs", "30", "--json", str(report)]
    status = main([*arguments, "--targets", "pool,job,scheduler", "--signals", "SIGKILL"])
    told = capsys.readouterr().out

    assert status == 0, told
    assert told.startswith(f"seed {SEED}: 3 hits, sqlite")
    found = json.loads(report.read_text())
    assert {hit["target"]: hit["attempt_after"] - hit["attempt"] for hit in found["hits"]} == {
        "pool": 1,
        "job": 1,
        "scheduler": 0,
    }
    assert all(hit["lowest_step"] >= hit["checkpoint"] > 0 for hit in found["hits"])
