"""``/v1/api-keys``."""

from datetime import UTC, datetime, timedelta

import httpx
import pytest

from api.keys import service
from api.keys.schemas import KeyCreate, KeyRotate
from core.errors import Forbidden
from core.store import keys
from core.store.keys import Caller


def create_key(http, **document):
    return http.post("/v1/api-keys", json={"name": "laptop", **document})


def status_with(server, token, path="/v1/jobs"):
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.get(f"{server.url}{path}", headers=headers, trust_env=False).status_code


def test_a_key_is_created_listed_and_revoked_and_its_token_returned_once(server, http):
    response = create_key(http, scopes=["write", "read"], expires_in_days=1)
    created = response.json()

    assert response.status_code == 201, response.text
    assert created["token"].startswith(f"{created['prefix']}_")
    assert (created["object"], created["scopes"], created["replaces"]) == ("api_key", ["read", "write"], None)
    remaining = datetime.fromisoformat(created["expires_at"]) - datetime.now(UTC)
    assert timedelta(hours=23) < remaining < timedelta(hours=25)
    assert status_with(server, created["token"]) == 200

    listed = http.get("/v1/api-keys").json()["data"]
    assert listed[0]["id"] == created["id"]
    assert listed[0]["last_used_at"] is not None
    assert http.get(f"/v1/api-keys/{created['id']}").json() == listed[0]
    assert created["token"] not in http.get("/v1/api-keys").text

    assert http.delete(f"/v1/api-keys/{created['id']}").status_code == 204
    assert http.delete(f"/v1/api-keys/{created['id']}").status_code == 204
    assert status_with(server, created["token"]) == 401
    assert http.get(f"/v1/api-keys/{created['id']}").json()["revoked_at"] is not None


def test_keys_are_paginated(http):
    created = [create_key(http, name=name).json()["id"] for name in "ab"]
    first = http.get("/v1/api-keys?limit=1").json()
    second = http.get(f"/v1/api-keys?limit=1&after={first['data'][0]['id']}").json()

    assert [first["data"][0]["id"], second["data"][0]["id"]] == created[::-1]
    assert first["has_more"]


@pytest.mark.parametrize("scopes", [("read",), ("read", "write")])
def test_only_an_admin_manages_keys(make_tenant, scopes):
    tenant = make_tenant(*scopes)
    calls = (
        create_key(tenant.http),
        tenant.http.get("/v1/api-keys"),
        tenant.http.get(f"/v1/api-keys/{tenant.key_id}"),
        tenant.http.delete(f"/v1/api-keys/{tenant.key_id}"),
        tenant.http.post(f"/v1/api-keys/{tenant.key_id}/rotate"),
        tenant.http.get("/v1/audit-log"),
    )

    assert [response.status_code for response in calls] == [403] * len(calls)


def test_a_key_cannot_create_a_key_with_more_scopes(server, make_tenant):
    tenant = make_tenant()
    writer = Caller("key_x", tenant.project_id, frozenset({"write"}))
    with server.database.write() as session:
        with pytest.raises(Forbidden, match="lacks the scope admin"):
            service.create(session, writer, KeyCreate(name="more", scopes=["read", "admin"]), max_keys=0)
        with pytest.raises(Forbidden, match="lacks a scope"):
            service.rotate(session, writer, tenant.key_id, KeyRotate(), max_keys=0)
        less = service.create(session, writer, KeyCreate(name="less", scopes=["read"]), max_keys=0)
        assert less.key.scopes == ["read"]


@pytest.mark.parametrize(
    ("document", "pointer"),
    [
        ({"name": ""}, "/name"),
        ({"scopes": ["root"]}, "/scopes/0"),
        ({"scopes": []}, "/scopes"),
        ({"expires_in_days": 0}, "/expires_in_days"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
        ({"expires_at": "2030-01-01T00:00:00"}, "/expires_at"),
        ({"expires_at": "9999-12-31T23:59:59-14:00"}, "/expires_at"),
        ({"expires_at": "2100-01-01T00:00:00Z", "expires_in_days": 1}, "/expires_in_days"),
        ({"expires": 1}, "/expires"),
    ],
)
def test_an_invalid_request_names_the_field(http, document, pointer):
    response = create_key(http, **document)

    assert response.status_code == 422
    assert [error["pointer"] for error in response.json()["errors"]] == [pointer]


def test_the_number_of_active_keys_of_a_project_is_limited(make_server, make_tenant):
    tenant = make_tenant(on=make_server(quota_keys=3))
    created = [create_key(tenant.http) for _ in range(3)]
    extra = created[1].json()["id"]
    rotate = f"/v1/api-keys/{extra}/rotate"

    assert [response.status_code for response in created] == [201, 201, 403]
    assert created[2].json()["code"] == "quota_exceeded"
    assert (created[2].json()["quota"], created[2].json()["limit"]) == ("keys", 3)
    assert tenant.http.post(rotate).status_code == 403
    assert tenant.http.post(rotate, json={"overlap_seconds": 0}).status_code == 201
    assert tenant.http.delete(f"/v1/api-keys/{created[0].json()['id']}").status_code == 204
    assert [create_key(tenant.http).status_code for _ in range(2)] == [201, 403]


def test_the_last_admin_key_cannot_be_revoked(server, make_tenant):
    tenant = make_tenant()
    response = tenant.http.delete(f"/v1/api-keys/{tenant.key_id}")

    assert response.status_code == 409
    assert response.json()["code"] == "last_admin_key"
    assert "create another one first" in response.json()["detail"]
    assert status_with(server, tenant.token) == 200


def test_after_a_rotation_both_keys_are_valid_for_a_day(server, make_tenant):
    tenant = make_tenant()
    response = tenant.http.post(f"/v1/api-keys/{tenant.key_id}/rotate")
    created = response.json()

    assert response.status_code == 201, response.text
    assert (created["replaces"], created["scopes"], created["expires_at"]) == (
        tenant.key_id,
        ["read", "write", "admin"],
        None,
    )
    assert [status_with(server, token) for token in (tenant.token, created["token"])] == [200, 200]
    end = datetime.fromisoformat(tenant.http.get(f"/v1/api-keys/{tenant.key_id}").json()["expires_at"])
    assert timedelta(hours=23, minutes=59) < end - datetime.now(UTC) <= timedelta(hours=24)

    again = tenant.http.post(f"/v1/api-keys/{tenant.key_id}/rotate")
    assert again.status_code == 409
    assert created["id"] in again.json()["detail"]


def test_without_an_overlap_the_old_key_expires_at_once(server, make_tenant):
    tenant = make_tenant()
    assert status_with(server, tenant.token) == 200
    created = tenant.http.post(f"/v1/api-keys/{tenant.key_id}/rotate", json={"overlap_seconds": 0}).json()

    assert [status_with(server, token) for token in (tenant.token, created["token"])] == [401, 200]


def test_a_key_that_expires_at_the_last_date_can_be_rotated(make_tenant):
    """People write this date for "never". No date is later, so the new key expires at the same time."""
    tenant = make_tenant()
    last = "9999-12-31T23:59:59.999Z"
    created = create_key(tenant.http, expires_at=last).json()
    response = tenant.http.post(f"/v1/api-keys/{created['id']}/rotate")

    assert response.status_code == 201, response.text
    assert response.json()["expires_at"] == last


def test_a_repeated_request_creates_no_second_key_and_returns_no_token(server, make_tenant):
    tenant = make_tenant()
    for path in ("/v1/api-keys", f"/v1/api-keys/{tenant.key_id}/rotate"):
        document = {"name": "once"} if path == "/v1/api-keys" else {}
        first, again = (tenant.http.post(path, json=document, headers={"Idempotency-Key": path[:40]}) for _ in range(2))

        assert (first.status_code, again.status_code) == (201, 201), again.text
        assert again.headers["Idempotent-Replayed"] == "true"
        assert first.json()["token"] is not None
        assert again.json() == {**first.json(), "token": None}

    with server.database.read() as session:
        assert len(keys.list_keys(session, tenant.project_id)) == 3


def test_no_secret_of_a_key_is_in_the_database(server, make_tenant):
    tenant = make_tenant()
    created = create_key(tenant.http).json()
    rotated = tenant.http.post(
        f"/v1/api-keys/{created['id']}/rotate", json={}, headers={"Idempotency-Key": "only-once"}
    ).json()
    file = server.settings.home / "potstill.db"
    stored = b"".join(path.read_bytes() for path in file.parent.glob("potstill.db*"))

    assert rotated["id"].encode() in stored
    for token in (created["token"], rotated["token"], tenant.token):
        assert token.rsplit("_", 1)[1].encode() not in stored
