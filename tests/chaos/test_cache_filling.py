"""An idle worker computes teacher outputs for a job of another worker, and is killed meanwhile."""

import pytest

from tests.chaos.stack import Stack
from tests.support.api import weights_digest
from tests.support.specs import DIGITS, kd_job, tiny_vit
from tests.support.waiting import until

TEACHER = {**tiny_vit(embed_dim=192, depth=6, num_heads=3), "weights": "random"}


@pytest.fixture
def start(tmp_path):
    stacks = []

    def run(name, **options):
        stacks.append(Stack(tmp_path / name, **options))
        stacks[-1].start()
        return stacks[-1]

    yield run
    for stack in stacks:
        assert stack.stop() == []


def submit(stack):
    dataset = stack.call("POST", "/v1/datasets", json=DIGITS).json()["id"]
    until(lambda: stack.get(f"/v1/datasets/{dataset}").json()["status"] == "ready", 60)
    training = {"augmentation": "light", "views": 12}
    spec = kd_job(
        dataset, epochs=12, teacher_epochs=1, training=training, teachers=[TEACHER], resources={"threads": 1},
        export=["safetensors"],
    )  # fmt: skip
    return stack.call("POST", "/v1/jobs", json=spec).json()["id"]


def events(stack, job):
    return stack.get(f"/v1/jobs/{job}/events", params={"limit": 100}).json()["data"]


def finish(stack, job):
    document = until(lambda: (d := stack.get(f"/v1/jobs/{job}").json())["terminal"] and d, 120)
    assert (document["status"], document["attempt"]) == ("succeeded", 1), document
    (summary,) = [event["data"] for event in events(stack, job) if event["type"] == "teacher_cache.summary"]
    return weights_digest(stack, job), summary


def kill_filling_process(stack, own):
    """Kill the second process that computes: the one that is not the job's own."""
    process = until(lambda: next((found for found in stack.find_processes("job") if found != own), None))
    process.kill()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_student_has_the_same_bits_when_an_idle_worker_helps_and_is_killed(start):
    alone = start("alone", POTSTILL_TEACHER_CACHE_SHARE_SECONDS="0")
    expected, summary = finish(alone, submit(alone))
    assert summary["hits"] == 0

    shared = start("shared", workers=2, POTSTILL_TEACHER_CACHE_SHARE_SECONDS="0.01")
    job = submit(shared)
    own = shared.wait_for_process("job")
    until(lambda: any(event["type"] == "teacher_cache.worker_joined" for event in events(shared, job)), 60)
    kill_filling_process(shared, own)
    digest, _ = finish(shared, job)  # the process may be killed before its first shard is complete

    assert digest == expected
