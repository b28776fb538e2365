"""The most dangerous files of the corpus, sent to a running service."""

import pytest

from tests.hostile import images, tables, tars, zips  # noqa: F401 - registers the cases
from tests.hostile.corpus import CASES
from tests.hostile.weights import ARCHITECTURE
from tests.hostile.weights import CASES as WEIGHTS
from tests.support.waiting import until_resource

pytestmark = pytest.mark.slow  # tests/hostile has all cases, without a stack, in every run

MOST_DANGEROUS = [
    "zip_of_zeros",
    "zip_with_overlapping_files",
    "zip64_that_declares_an_exabyte",
    "zip_with_a_relative_path_outside",
    "zip_with_a_symbolic_link",
    "zip_with_a_password",
    "tar_that_declares_four_exabytes",
    "tar_with_a_sparse_map_in_its_data",
    "tar_with_a_character_device",
    "parquet_with_one_value_repeated_7000_times",
    "png_of_two_billion_squared",
    "webp_of_sixteen_thousand_squared",
    "jpeg_with_ten_thousand_scans",
    "jpeg_with_orientation_6",
]


@pytest.fixture(scope="module")
def datasets(stack, http):
    """The final dataset of each case, by name. All files are sent before the first one is ingested."""
    ids = {}
    for name in MOST_DANGEROUS:
        response = http.post("/v1/datasets", data={"name": name}, files={"file": ("x", CASES[name].build())})
        assert response.status_code == 202, response.text
        ids[name] = response.json()["id"]
    return {
        name: until_resource(http, f"/v1/datasets/{dataset_id}", lambda d: d["status"] != "processing")
        for name, dataset_id in ids.items()
    }


@pytest.mark.parametrize("name", MOST_DANGEROUS)
def test_a_file_has_the_expected_result(datasets, name):
    dataset, case = datasets[name], CASES[name]

    assert dataset["status"] == ("failed" if case.code else "ready"), dataset
    assert (dataset["error"] or {}).get("code") == case.code
    if not case.code:
        assert {file["path"]: file["code"] for file in dataset["rejected"]} == dict(case.rejected)


def test_no_file_is_left_over_or_written_outside_and_the_service_continues(stack, http, datasets):
    assert {dataset["status"] for dataset in datasets.values()} == {"failed", "ready"}
    assert list(stack.home.rglob("outside.png")) == []
    assert not (stack.home.parent / "outside.png").exists()
    assert [path.name for path in (stack.home / "work").iterdir() if path.name.startswith("ds_")] == []
    assert list((stack.home / "incoming").iterdir()) == []
    assert not any((stack.home / "artifacts" / "uploads").rglob("file"))
    assert (
        sum(path.stat().st_size for path in (stack.home / "artifacts" / "datasets").rglob("*") if path.is_file())
        < 10**8
    )
    assert http.get("/readyz").status_code == 200


@pytest.mark.parametrize("name", [name for name, case in WEIGHTS.items() if case.at_upload])
def test_malformed_weights_are_rejected_at_upload(http, name):
    form = {"architecture": ARCHITECTURE, "arguments": "{}"}
    response = http.post("/v1/models", data=form, files={"file": ("m.safetensors", WEIGHTS[name].build())})

    assert (response.status_code, response.json()["code"]) == (415, WEIGHTS[name].code)
