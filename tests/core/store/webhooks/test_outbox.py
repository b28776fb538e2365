"""Deliveries are written in the transaction of their event, for the webhooks that subscribe to it."""

from contextlib import suppress

from core.store import datasets, events, ingest_leases, jobs, webhooks

KEY = "k" * 32
URL = "https://example.com/hook"


def subscribe(world, *types, project=None, **options):
    return world.write(
        webhooks.create, project or world.project, url=URL, events=types or ("*",), secret_key=KEY, **options
    ).webhook


def deliveries(world, webhook):
    page = world.read(webhooks.list_deliveries, webhook.project_id, webhook.id, limit=100)
    return page.items[::-1]


def types(world, webhook):
    return [delivery.type for delivery in deliveries(world, webhook)]


def test_each_webhook_gets_the_events_that_it_subscribes_to(world, other_project):
    every, ends, other = subscribe(world), subscribe(world, "job.cancelled"), subscribe(world, project=other_project)
    lease = world.start_job(name="night", metadata={"team": "x"})
    world.write(jobs.cancel, world.project, lease.job_id)
    world.write(jobs.release, lease)

    assert types(world, every) == ["job.created", "job.started", "job.cancelled"]
    assert types(world, ends) == ["job.cancelled"]
    assert types(world, other) == []


def test_the_payload_is_the_event_and_a_summary_of_the_job(world):
    webhook = subscribe(world, "job.failed")
    lease = world.start_job(name="night", metadata={"team": "x"})
    world.write(jobs.fail, lease, {"code": "out_of_memory", "message": "Too large.", "traceback": "…"})
    (delivery,) = deliveries(world, webhook)
    event = world.read(events.list_events, world.project, lease.job_id).items[-1]
    job = delivery.payload["data"]["job"]

    assert (delivery.payload["type"], delivery.event_id, delivery.object_id) == ("job.failed", event.id, lease.job_id)
    assert delivery.payload["timestamp"].endswith("Z")
    assert delivery.payload["data"]["event"] == {
        "id": event.id,
        "seq": event.seq,
        "message": "Too large.",
        "data": event.data,
    }
    assert (job["id"], job["name"], job["status"], job["terminal"]) == (lease.job_id, "night", "failed", True)
    assert (job["error"], job["metadata"]) == ({"code": "out_of_memory", "message": "Too large."}, {"team": "x"})


def test_a_webhook_of_one_job_gets_only_its_events(world):
    first, second = world.job(), world.job()
    webhook = subscribe(world, job_id=first)
    for job_id in (first, second):
        world.write(jobs.pause, world.project, job_id)

    assert [(each.type, each.object_id) for each in deliveries(world, webhook)] == [("job.paused", first)]


def test_the_end_of_an_ingestion_is_an_event(world):
    webhook = subscribe(world, "dataset.ready", "dataset.failed")
    ready = world.ready_dataset()
    failed = world.write(datasets.create, world.project, name="bad", source={}).id
    lease = ingest_leases.IngestLeaseToken.from_row(world.write(datasets.claim, worker_id="w", lease_seconds=60))
    world.write(datasets.fail, lease, {"code": "no_images", "message": "No images."})
    first, second = deliveries(world, webhook)

    assert (first.type, first.object_id, first.payload["data"]["dataset"]["num_classes"]) == ("dataset.ready", ready, 2)
    assert (second.type, second.object_id) == ("dataset.failed", failed)
    assert second.payload["data"]["dataset"]["error"] == {"code": "no_images", "message": "No images."}


def test_a_rolled_back_event_leaves_no_delivery(world):
    webhook, job_id = subscribe(world), world.job()
    with suppress(RuntimeError), world.db.write() as session:
        jobs.cancel(session, world.project, job_id)
        raise RuntimeError

    assert types(world, webhook) == ["job.created"]


def test_a_disabled_webhook_gets_no_new_events_and_its_waiting_deliveries_end(world):
    webhook = subscribe(world)
    world.job()
    world.write(webhooks.change, world.project, webhook.id, status="disabled")
    world.job()
    assert [delivery.status for delivery in deliveries(world, webhook)] == ["failed"]

    enabled = world.write(webhooks.change, world.project, webhook.id, status="enabled")
    world.job()
    assert (enabled.status, enabled.disabled_reason) == ("enabled", None)
    assert [delivery.status for delivery in deliveries(world, webhook)] == ["failed", "pending"]


def test_a_webhook_that_is_deleted_meanwhile_does_not_fail_the_event(world):
    """The event reads webhooks under a lock, so its delivery cannot refer to a deleted one."""
    webhook, job_id = subscribe(world), world.job()
    world.write(webhooks.delete, world.project, webhook.id)
    world.write(jobs.cancel, world.project, job_id)

    assert world.get(job_id).status == "cancelled"
