"""The configuration of other ranks, and the files that they need."""

import pytest

from core.data.stored import INDEX
from core.errors import StorageFailed
from core.reporting import Workspace
from core.spec import parse_job_spec
from core.train.rank_config import RankConfig, require_files

SPEC = parse_job_spec(
    {"dataset": "ds_x", "student": {"architecture": "vit_tiny_patch16_224"}, "method": {"name": "scratch"}}
)


def write(folder, *names, content="x"):
    folder.mkdir()
    for name in names:
        (folder / name).write_text(content)
    return folder


@pytest.fixture
def config(tmp_path):
    workspace = Workspace(
        root=tmp_path / "run",
        cache=tmp_path / "cache",
        dataset=write(tmp_path / "data", INDEX),
        models={"mdl_1": write(tmp_path / "model", "config.json", "model.safetensors")},
        datasets={"ds_pool": write(tmp_path / "pool", INDEX)},
    )
    return RankConfig.from_spec(
        SPEC,
        workspace,
        teachers={"r": write(tmp_path / "teacher", "config.json", "model.safetensors")},
        checkpoint=write(tmp_path / "checkpoint", "state.pt", "model.safetensors"),
    )


def test_a_configuration_survives_its_file(config):
    assert RankConfig.read(config.write()) == config
    assert config.parse_spec() == SPEC
    assert config.workspace(1).root.name == "rank-1"


def test_files_of_an_earlier_attempt_are_deleted(config):
    config.write()
    config.ready_path(1).touch()
    config.write()

    assert not config.ready_path(1).exists()


def test_the_files_of_datasets_models_teachers_and_checkpoint_are_required(config):
    names = {path.rpartition("/")[0].rpartition("/")[2] for path in config.file_digests()}

    assert names == {"data", "pool", "model", "teacher", "checkpoint"}
    require_files(config.file_digests())


def test_a_missing_file_is_rejected(config, tmp_path):
    digests = config.file_digests()
    (tmp_path / "model" / "model.safetensors").unlink()

    with pytest.raises(StorageFailed, match=r"model/model\.safetensors does not exist on this machine"):
        require_files(digests, timeout_seconds=0)


def test_another_content_is_rejected(config, tmp_path):
    digests = config.file_digests()
    (tmp_path / "data" / INDEX).write_text("another dataset")

    with pytest.raises(StorageFailed, match=r"data/index\.json has another content on this machine"):
        require_files(digests)
