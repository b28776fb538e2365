"""Inputs of a job, including further datasets: of its method, and `unlabeled_dataset`."""

from core.data.stored import StoredDataset
from core.spec import parse_job_spec
from core.store import jobs
from worker.jobs.inputs import Inputs

VIT = {"architecture": "vit_tiny_patch16_224", "arguments": {"patch_size": 4}}


def no_poll():
    pass


def test_the_unlabeled_pool_is_fetched_with_the_dataset(service, make_dataset, tmp_path):
    dataset, pool, more = make_dataset("own", 10), make_dataset("unlabeled", 20), make_dataset("more", 30)
    method = {"name": "attention_probe", "pool": pool}
    spec = parse_job_spec(
        {"dataset": dataset, "unlabeled_dataset": more, "teachers": [VIT], "student": VIT, "method": method}
    )
    job = service.write(
        jobs.create,
        service.project,
        spec=spec.model_dump(mode="json"),
        resolved=False,
        dataset_id=dataset,
        references=[pool, more],
    )

    inputs = Inputs.fetch(service.context, job, spec, tmp_path / "scratch", no_poll)
    workspace = inputs.workspace(service.context, tmp_path / "scratch")

    with StoredDataset.open(workspace.dataset) as own, StoredDataset.open(workspace.datasets[pool]) as unlabeled:
        assert own.fingerprint != unlabeled.fingerprint
        num_train = len(unlabeled.split("train"))
    assert set(workspace.datasets) == {more, pool}
    assert inputs.other_dataset_info()[pool].num_train == num_train
    assert inputs.dataset_info().num_train != num_train
