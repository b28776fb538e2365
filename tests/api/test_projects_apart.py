"""Project isolation: every route of the app is called with objects of another project.

New routes are included automatically. A route with an unknown parameter fails the test: add its values to
`foreign_ids`, or the route to `WITHOUT_PROJECT_OBJECTS`.
"""

import re

import httpx
import pytest

from api.dashboard.forms import new_form_token
from api.session_cookie import COOKIE_NAME, issue_cookie
from core.store import datasets, pushes, sweeps, uploads, webhooks

PARAMETER = re.compile(r"{(\w+)(?::\w+)?}")
# Routes whose parameters name no object of a project.
WITHOUT_PROJECT_OBJECTS = {
    "/v1/methods/{name}",
    "/dashboard/job-form/{version}",
    "/dashboard/static/{version}/{name:path}",
}
# Request arguments by method; an unexpected body is ignored.
BODIES = {
    "DELETE": {},
    "GET": {},
    "HEAD": {},
    "POST": {"json": {}},
    "PUT": {"json": {}},
    "PATCH": {"json": {}, "headers": {"Tus-Resumable": "1.0.0", "Upload-Offset": "0"}},
}

# Of routes that check the body before they look for the object.
ROUTE_BODIES = {
    "/v1/jobs/{job_id}/push": {"json": {"repo": "owner/name", "token": "hf_abcdefgh"}},
}


@pytest.fixture(scope="module")
def foreign_ids(server, tmp_path_factory):
    """Ids of another project's objects, by path parameter."""
    owner = server.tenant()
    folder = tmp_path_factory.mktemp("files")
    lease = owner.running_job()
    checkpoint = owner.checkpoint(lease, folder, 5)
    owner.succeed(lease, folder)
    with server.database.write() as session:
        waiting = datasets.create(session, owner.project_id, name="other", source={"type": "builtin", "name": "digits"})
        webhook = webhooks.create(
            session, owner.project_id, url="https://x.example", events=["*"], secret_key="k"
        ).webhook
        delivery = webhooks.add_test(session, webhook, webhook.created_at)
        upload = uploads.create(
            session, owner.project_id, size_bytes=4, filename="", tus_metadata="", retention_hours=1.0
        )
        push = pushes.create(
            session,
            owner.project_id,
            lease.job_id,
            pushes.PushTarget(
                "owner/name", "main", private=True, files=("model.safetensors",), license=None, message=""
            ),
            token="hf_0",
            secret_key="k" * 32,
        )
        sweep = sweeps.create(session, owner.project_id, name="s", spec={}, grid={}, points=[], fields=[], num_jobs=0)
    ids = {
        "job_id": {lease.job_id, owner.queued_job()},
        "dataset_id": {owner.ready_dataset(), waiting.id},
        "model_id": {owner.processing_model()},
        "checkpoint_id": {checkpoint.id},
        "upload_id": {upload.id},
        "sweep_id": {sweep.id},
        "webhook_id": {webhook.id},
        "delivery_id": {delivery.id},
        "push_id": {push.id},
        "key_id": {owner.key_id},
        "name": {"model.safetensors"},
        "split": {"train"},
        "index": {"0"},
        "action": {"cancel", "pause", "resume", "stop", "retry"},
    }
    yield ids
    owner.http.close()


def urls(path, values):
    """Return the path with all values of its parameters."""
    found = [path]
    for name in PARAMETER.findall(path):
        assert name in values, f"{path}: add values of {{{name}}} to `foreign_ids`"
        pattern = re.compile(r"{" + name + r"(?::\w+)?}")
        found = [pattern.sub(value, url) for url in found for value in sorted(values[name])]
    return found


def body_of(route):
    """Return the arguments of a request that the route accepts before it looks for the object."""
    if route.method == "POST" and not route.path.startswith("/v1/"):
        return {"data": {"form": new_form_token()}}  # a form of a page
    return ROUTE_BODIES.get(route.path, BODIES[route.method]) if route.method == "POST" else BODIES[route.method]


@pytest.fixture(params=["key", "session"])
def other_client(request, server, make_tenant):
    """A client of a different project, with a key or a session."""
    tenant = make_tenant()
    if request.param == "key":
        yield tenant.http
        return
    cookie = issue_cookie(server.app.state.app_state.cookie_secret, tenant.key_id)
    with httpx.Client(
        base_url=server.url,
        cookies={COOKIE_NAME: cookie},
        headers={"Sec-Fetch-Site": "same-origin"},
        trust_env=False,
    ) as browser:
        yield browser


def test_every_route_hides_objects_of_other_projects(app_routes, foreign_ids, other_client):
    num_requests = 0
    for route in app_routes:
        if not PARAMETER.search(route.path) or route.path in WITHOUT_PROJECT_OBJECTS:
            continue
        for address in urls(route.path, foreign_ids):
            response = other_client.request(route.method, address, **body_of(route))
            message = f"{route.method} {address}: {response.status_code} {response.text[:300]}"
            assert response.status_code == 404, message
            assert not leaks(response, foreign_ids, requested=address), message
            num_requests += 1

    assert num_requests >= 40


def test_lists_and_pages_hide_objects_of_other_projects(app_routes, foreign_ids, other_client):
    num_requests = 0
    for route in app_routes:
        if route.method != "GET" or PARAMETER.search(route.path):
            continue
        response = other_client.get(route.path)
        assert response.status_code < 500 or route.path == "/readyz", route.path
        assert not leaks(response, foreign_ids), route.path
        num_requests += 1

    assert num_requests >= 15


def test_objects_of_other_projects_cannot_be_used_as_inputs(server, foreign_ids, other_client, make_tenant, spec_of):
    existing, unknown = min(foreign_ids["dataset_id"]), "ds_" + "0" * 26
    rejected = [other_client.post("/v1/jobs", json=spec_of(dataset)) for dataset in (existing, unknown)]
    model = {"architecture": "vit_tiny_patch16_224", "weights": min(foreign_ids["model_id"])}
    with_model = other_client.post("/v1/jobs", json={**spec_of(unknown), "teachers": [model]})

    assert [response.status_code for response in (*rejected, with_model)] == [422] * 3
    # The error does not reveal whether an object exists.
    assert rejected[0].json()["detail"].replace(existing, unknown) == rejected[1].json()["detail"]
    assert other_client.post("/v1/estimates", json=spec_of(existing)).status_code == 422


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/datasets", "/v1/models", "/v1/api-keys", "/jobs"])
def test_an_after_id_of_another_project_lists_only_own_objects(path, foreign_ids, other_client):
    kind = {"/v1/jobs": "job_id", "/jobs": "job_id", "/v1/datasets": "dataset_id", "/v1/models": "model_id"}
    after = min(foreign_ids[kind.get(path, "key_id")])
    response = other_client.get(path, params={"after": after})

    assert response.status_code == 200
    assert not leaks(response, foreign_ids, requested=after)


def leaks(response, foreign_ids, *, requested=""):
    """Return ids of the other project in the response, except those in the request."""
    ids = {value for name, values in foreign_ids.items() if name.endswith("_id") for value in values}
    return {each for each in ids if each in response.text and each not in requested}
