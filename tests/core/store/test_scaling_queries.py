"""The queries by which KEDA chooses the number of workers, on a real PostgreSQL."""

from pathlib import Path

import pytest
import yaml
from sqlalchemy import text

FOLDER = Path(__file__).resolve().parents[3] / "deploy" / "kubernetes" / "components" / "keda"


def values(world, accelerator):
    """Return the number of unfinished jobs and the age of the oldest queued job, as KEDA reads them."""
    triggers = yaml.safe_load((FOLDER / f"worker-{accelerator}.yaml").read_text())["spec"]["triggers"]
    with world.db.read() as session:
        return [float(session.execute(text(trigger["metadata"]["query"])).scalar_one()) for trigger in triggers]


@pytest.mark.parametrize("db", ["postgresql"], indirect=True)
def test_workers_are_wanted_for_queued_and_running_jobs_of_their_accelerator(world):
    assert values(world, "cuda") == [0, 0]
    world.job(accelerator="cuda")
    world.job(accelerator="auto")
    world.start_job(accelerator="cpu", priority=9)
    world.write(lambda s: s.execute(text("UPDATE jobs SET created_at = created_at - interval '1 hour'")))

    assert values(world, "cuda")[0] == 2
    assert values(world, "cpu")[0] == 2
    assert values(world, "cuda")[1] == pytest.approx(3600, abs=60)
