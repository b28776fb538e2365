"""No project sees another's objects: every route of the app is asked for them with a foreign key.

A new route is asked as well. One with a parameter that nothing is known of here fails the test: say below what it
names, or that it names nothing of a project's.
"""

import re

import httpx
import pytest

from api.session_cookie import COOKIE_NAME, issue_cookie
from core.store import datasets

PARAMETER = re.compile(r"{(\w+)(?::\w+)?}")
# Routes whose parameter names nothing that belongs to a project.
NOBODYS = {"/v1/methods/{name}", "/dashboard/static/{version}/{name:path}"}
# Every way in which a route may be asked; a body that it does not want does no harm.
BODIES = {"DELETE": {}, "GET": {}, "HEAD": {}, "POST": {"json": {}}, "PUT": {"json": {}}, "PATCH": {"json": {}}}


@pytest.fixture(scope="module")
def others(server, tmp_path_factory):
    """Somebody with one of everything: the ids by the name of the parameter that takes them."""
    owner = server.tenant()
    folder = tmp_path_factory.mktemp("files")
    attempt = owner.running_job()
    checkpoint = owner.checkpoint(attempt, folder, 5)
    owner.succeed(attempt, folder)
    with server.database.write() as session:
        waiting = datasets.create(session, owner.project_id, name="other", source={"type": "builtin", "name": "digits"})
    known = {
        "job_id": {attempt.job_id, owner.queued_job()},
        "dataset_id": {owner.ready_dataset(), waiting.id},
        "model_id": {owner.own_model(folder)},
        "checkpoint_id": {checkpoint.id},
        "key_id": {owner.key_id},
        "name": {"model.safetensors"},
        "move": {"cancel", "pause", "resume", "stop", "retry"},
    }
    yield known
    owner.http.close()


def addresses(path, known):
    """The path with every known value in the place of its parameters."""
    found = [path]
    for name in PARAMETER.findall(path):
        assert name in known, f"{path}: say in this test what {{{name}}} names"
        pattern = re.compile(r"{" + name + r"(?::\w+)?}")
        found = [pattern.sub(value, one) for one in found for value in sorted(known[name])]
    return found


@pytest.fixture(params=["key", "session"])
def stranger(request, server, make_tenant):
    """Somebody else, with a key or signed in to the dashboard."""
    tenant = make_tenant()
    if request.param == "key":
        yield tenant.http
        return
    cookie = issue_cookie(server.app.state.parts.cookie_secret, tenant.key_id)
    with httpx.Client(
        base_url=server.url,
        cookies={COOKIE_NAME: cookie},
        headers={"Sec-Fetch-Site": "same-origin"},
        trust_env=False,
    ) as browser:
        yield browser


def test_what_is_another_s_is_not_there_on_any_route(app_routes, others, stranger):
    asked = 0
    for route in app_routes:
        if not PARAMETER.search(route.path) or route.path in NOBODYS:
            continue
        for address in addresses(route.path, others):
            answer = stranger.request(route.method, address, **BODIES[route.method])
            asked_for = f"{route.method} {address}: {answer.status_code} {answer.text[:300]}"
            assert answer.status_code == 404, asked_for
            assert not leaks(answer, others, besides=address), asked_for
            asked += 1

    assert asked >= 40


def test_no_list_or_page_shows_what_is_another_s(app_routes, others, stranger):
    asked = 0
    for route in app_routes:
        if route.method != "GET" or PARAMETER.search(route.path):
            continue
        answer = stranger.get(route.path)
        assert answer.status_code < 500 or route.path == "/readyz", route.path
        assert not leaks(answer, others), route.path
        asked += 1

    assert asked >= 15


def test_nothing_is_made_of_what_is_another_s(server, others, stranger, make_tenant, spec_of):
    theirs, unknown = min(others["dataset_id"]), "ds_" + "0" * 26
    refused = [stranger.post("/v1/jobs", json=spec_of(one)) for one in (theirs, unknown)]
    model = {"architecture": "vit_tiny_patch16_224", "weights": min(others["model_id"])}
    with_model = stranger.post("/v1/jobs", json={**spec_of(unknown), "teachers": [model]})

    assert [answer.status_code for answer in (*refused, with_model)] == [422] * 3
    # Nothing tells what exists from what does not.
    assert refused[0].json()["detail"].replace(theirs, unknown) == refused[1].json()["detail"]
    assert stranger.post("/v1/estimates", json=spec_of(theirs)).status_code == 422


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/datasets", "/v1/models", "/v1/api-keys", "/jobs"])
def test_a_page_after_what_is_another_s_is_a_page_of_one_s_own(path, others, stranger):
    kind = {"/v1/jobs": "job_id", "/jobs": "job_id", "/v1/datasets": "dataset_id", "/v1/models": "model_id"}
    after = min(others[kind.get(path, "key_id")])
    answer = stranger.get(path, params={"after": after})

    assert answer.status_code == 200
    assert not leaks(answer, others, besides=after)


def leaks(answer, others, *, besides=""):
    """Ids of theirs in the answer, but for those that were asked for."""
    ids = {value for name, values in others.items() if name.endswith("_id") for value in values}
    return {one for one in ids if one in answer.text and one not in besides}
