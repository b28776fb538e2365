"""The nastiest files of the corpus through the real API and the real ingest worker."""

import pytest

from tests.hostile import images, tables, tars, zips  # noqa: F401 - registers the cases
from tests.hostile.corpus import CASES
from tests.hostile.weights import ARCHITECTURE
from tests.hostile.weights import CASES as WEIGHTS

NASTIEST = [
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
def ended(stack, http, wait_until):
    """Every case, sent before the first one was read; what became of each, and that nothing else did."""
    sent = {}
    for name in NASTIEST:
        answer = http.post("/v1/datasets", data={"name": name}, files={"file": ("x", CASES[name].build())})
        assert answer.status_code == 202, answer.text
        sent[name] = answer.json()["id"]
    return {
        name: wait_until(f"/v1/datasets/{key}", lambda d: d["status"] != "processing") for name, key in sent.items()
    }


@pytest.mark.parametrize("name", NASTIEST)
def test_it_ends_as_it_should(ended, name):
    dataset, case = ended[name], CASES[name]

    assert dataset["status"] == ("failed" if case.code else "ready"), dataset
    assert (dataset["error"] or {}).get("code") == case.code
    if not case.code:
        assert {each["path"]: each["code"] for each in dataset["rejected"]} == dict(case.rejected)


def test_nothing_is_left_or_lies_outside_and_the_service_goes_on(stack, http, ended, wait_until):
    assert {dataset["status"] for dataset in ended.values()} == {"failed", "ready"}
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
def test_weights_that_lie_are_refused_at_upload(http, name):
    form = {"architecture": ARCHITECTURE, "arguments": "{}"}
    answer = http.post("/v1/models", data=form, files={"file": ("m.safetensors", WEIGHTS[name].build())})

    assert (answer.status_code, answer.json()["code"]) == (415, WEIGHTS[name].code)
