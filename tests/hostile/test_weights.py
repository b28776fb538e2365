"""Every hostile weight file has the expected result, at upload or in the model check."""

import time

import pytest

from api.sniffing import require_weights
from core.errors import PotstillError, UnsupportedMedia
from core.models.safetensors_header import read_header
from core.models.upload_check import Upload, check
from tests.hostile.weights import ARCHITECTURE, ARGUMENTS, CASES

SECONDS = 5.0  # the API reads headers in its own process


def validate_upload(path):
    """Validate a file like the API does at upload."""
    require_weights(path.read_bytes()[:1024])
    read_header(path)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.at_upload])
def test_a_hostile_file_is_rejected_before_storage(name, tmp_path):
    case, path = CASES[name], tmp_path / "weights"
    path.write_bytes(case.build())
    before = time.monotonic()

    with pytest.raises(UnsupportedMedia, match="safetensors") as error:
        validate_upload(path)
    assert (error.value.status, error.value.code) == (415, case.code)
    assert time.monotonic() - before < SECONDS


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.at_upload])
def test_a_checked_file_has_the_expected_result(name, tmp_path):
    case, path, out = CASES[name], tmp_path / "weights", tmp_path / "out"
    path.write_bytes(case.build())
    validate_upload(path)
    result = check(Upload(file=path, architecture=ARCHITECTURE, arguments=ARGUMENTS, out_folder=out))

    assert result.get("error", {}).get("code") == case.code, result
    assert sorted(file.name for file in out.glob("*")) == ([] if case.code else ["config.json", "model.safetensors"])


def test_every_code_is_a_documented_problem():
    error_types = [PotstillError]
    for error_type in error_types:
        error_types.extend(error_type.__subclasses__())

    assert {case.code for case in CASES.values() if case.code} <= {error_type.code for error_type in error_types}
