"""Every hostile file that is sent as weights ends as it should, at once or after the check."""

import time

import pytest

from api.sniffing import require_weights
from core.errors import PotstillError, UnsupportedMedia
from core.models.safetensors_header import read_header
from core.models.upload_check import Upload, check
from tests.hostile.weights import ARCHITECTURE, ARGUMENTS, CASES

SECONDS = 5.0  # a header is read in the API's own process


def look(path):
    """As the API does with an upload."""
    require_weights(path.read_bytes()[:1024])
    read_header(path)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.at_once])
def test_it_is_refused_before_it_is_stored(name, tmp_path):
    case, path = CASES[name], tmp_path / "weights"
    path.write_bytes(case.build())
    before = time.monotonic()

    with pytest.raises(UnsupportedMedia, match="safetensors") as error:
        look(path)
    assert (error.value.status, error.value.code) == (415, case.code)
    assert time.monotonic() - before < SECONDS


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.at_once])
def test_it_is_checked_and_ends_as_it_should(name, tmp_path):
    case, path, out = CASES[name], tmp_path / "weights", tmp_path / "out"
    path.write_bytes(case.build())
    look(path)
    answer = check(Upload(file=path, architecture=ARCHITECTURE, arguments=ARGUMENTS, out_folder=out))

    assert answer.get("error", {}).get("code") == case.code, answer
    assert sorted(file.name for file in out.glob("*")) == ([] if case.code else ["config.json", "model.safetensors"])


def test_every_code_is_a_problem_that_the_reference_explains():
    kinds = [PotstillError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())

    assert {case.code for case in CASES.values() if case.code} <= {kind.code for kind in kinds}
