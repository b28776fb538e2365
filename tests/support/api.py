"""Requests that tests of a running service repeat. `http` is a client with a base URL and a key."""

from tests.support.specs import DIGITS
from tests.support.waiting import until_resource


def create_digits(http, seconds=120.0):
    """Create the dataset of handwritten digits, wait until it is ready, and return its id."""
    dataset = http.post("/v1/datasets", json=DIGITS).json()
    dataset = until_resource(http, f"/v1/datasets/{dataset['id']}", lambda d: d["status"] != "processing", seconds)
    assert dataset["status"] == "ready", dataset
    return dataset["id"]


def submit_job(http, spec):
    """Create a job and return its id."""
    response = http.post("/v1/jobs", json=spec)
    assert response.status_code == 201, response.text
    return response.json()["id"]


def is_terminal(job):
    return job["terminal"]


def list_all(http, path, page_size=100):
    """Return the items of all pages of a list."""
    items, has_more = [], True
    while has_more:
        after = {"after": items[-1]["id"]} if items else {}
        page = http.get(path, params={"limit": page_size, **after}).json()
        items += page["data"]
        has_more = page["has_more"]
    return items


def artifacts_by_name(http, job_id):
    """Return the listed artifacts of a job by name."""
    return {artifact["name"]: artifact for artifact in http.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]}


def weights_digest(http, job_id):
    """Return the SHA-256 of the student's weights, as the list of artifacts states it."""
    return artifacts_by_name(http, job_id)["model.safetensors"]["sha256"]


def training_losses(http, job_id):
    """Return the points (step, value) of the student's training loss."""
    params = {"name": "train/loss", "max_points": 10_000}
    return http.get(f"/v1/jobs/{job_id}/metrics", params=params).json()["series"][0]["points"]
