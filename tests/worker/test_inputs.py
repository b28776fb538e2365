"""What a job reads is brought to this machine: also the datasets that its method names."""

import numpy as np
import pytest
from PIL import Image

from core.data.ingest.dataset import ingest_folder
from core.data.stored import StoredDataset
from core.spec import parse_job_spec
from core.store import datasets, intake, jobs
from worker.files import publish_folder
from worker.inputs import Inputs

VIT = {"architecture": "vit_tiny_patch16_224", "arguments": {"patch_size": 4}}


def nobody_asks():
    pass


@pytest.fixture
def stored(service, store, tmp_path):
    """Makes a dataset that is ready and really stored."""

    def make(name, count):
        folder = tmp_path / name
        folder.mkdir()
        for index in range(count):
            Image.fromarray(np.full((8, 8), 5 * index, np.uint8)).save(folder / f"{index:02d}.png")
        ingest_folder(folder, tmp_path / f"{name}-stored")
        made = service.do(datasets.create, service.project, name=name, source={}).id
        holding = intake.Holding.of(service.do(datasets.claim, worker_id="wrk_test", lease_seconds=60))
        service.do(
            datasets.ready,
            holding,
            files=publish_folder(store, tmp_path / f"{name}-stored", f"datasets/{name}"),
            splits={"train": {"num_samples": 2}, "test": {"num_samples": 2}},
            num_classes=None,
            classes=None,
            channels=1,
            image_size=8,
            fingerprint="0" * 64,
            size_bytes=1,
        )
        return made

    return make


def test_the_pool_is_there_beside_the_dataset(service, stored, tmp_path):
    dataset, pool = stored("own", 10), stored("wild", 20)
    spec = parse_job_spec(
        {"dataset": dataset, "teachers": [VIT], "student": VIT, "method": {"name": "attention_probe", "pool": pool}}
    )
    job = service.do(
        jobs.create,
        service.project,
        spec=spec.model_dump(mode="json"),
        resolved=False,
        dataset_id=dataset,
        references=[pool],
    )

    inputs = Inputs.gather(service.context, job, spec, tmp_path / "scratch", nobody_asks)
    workspace = inputs.workspace(service.context, tmp_path / "scratch")

    with StoredDataset.open(workspace.dataset) as own, StoredDataset.open(workspace.datasets[pool]) as wild:
        assert own.fingerprint != wild.fingerprint
        num_train = len(wild.split("train"))
    assert list(workspace.datasets) == [pool]
    assert inputs.other_facts()[pool].num_train == num_train
    assert inputs.dataset_facts().num_train != num_train
