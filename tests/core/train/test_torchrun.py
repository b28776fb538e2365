"""Reading torchrun's environment."""

import pytest

from core.errors import InvalidRequest
from core.train.torchrun import RankPlace, TorchrunEnvironment

ENVIRON = {
    "TORCHELASTIC_RUN_ID": "run",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29500",
}


def test_place_and_store_are_read():
    environment = TorchrunEnvironment.read(ENVIRON)

    assert environment == TorchrunEnvironment(RankPlace(3, 4, 1, 2), "node0", 29500, has_agent_store=True)
    assert not TorchrunEnvironment.read({**ENVIRON, "TORCHELASTIC_USE_AGENT_STORE": "False"}).has_agent_store


@pytest.mark.parametrize("environ", [{}, {"WORLD_SIZE": "1", "RANK": "0"}, {"WORLD_SIZE": "many"}])
def test_a_process_without_torchrun_has_no_environment(environ):
    assert TorchrunEnvironment.read(environ) is None


def test_several_processes_of_another_launcher_are_rejected():
    """Each of them would run the whole job and write to the same folder."""
    with pytest.raises(InvalidRequest, match="WORLD_SIZE is 2, but torchrun did not start this process"):
        TorchrunEnvironment.read({"WORLD_SIZE": "2", "RANK": "1"})


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
        ({"RANK": "4"}, "RANK is '4'; expected an integer, 0…3"),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK is '2'; expected an integer, 0…1"),
        ({"LOCAL_WORLD_SIZE": "5"}, "LOCAL_WORLD_SIZE is '5'; expected an integer, 1…4"),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE is '-1'; expected an integer, at least 1"),
        ({"MASTER_PORT": "x"}, "MASTER_PORT is 'x'"),
    ],
)
def test_invalid_variables_are_rejected(changes, detail):
    with pytest.raises(InvalidRequest) as rejected:
        TorchrunEnvironment.read({**ENVIRON, **changes})

    assert detail in rejected.value.detail
