"""``/v1/api-keys``."""

from datetime import UTC, datetime, timedelta

import httpx
import pytest

from api.keys import service
from api.keys.schemas import KeyCreate, KeyRotate
from core.errors import Forbidden
from core.store import keys
from core.store.keys import Caller


def make(http, **document):
    return http.post("/v1/api-keys", json={"name": "laptop", **document})


def opens(server, token, path="/v1/jobs"):
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.get(f"{server.url}{path}", headers=headers, trust_env=False).status_code


def test_a_key_is_made_shown_once_listed_and_revoked(server, http):
    answer = make(http, scopes=["write", "read"], expires_in_days=1)
    made = answer.json()

    assert answer.status_code == 201, answer.text
    assert made["token"].startswith(f"{made['prefix']}_")
    assert (made["object"], made["scopes"], made["replaces"]) == ("api_key", ["read", "write"], None)
    left = datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC)
    assert timedelta(hours=23) < left < timedelta(hours=25)
    assert opens(server, made["token"]) == 200

    listed = http.get("/v1/api-keys").json()["data"]
    assert listed[0]["id"] == made["id"]
    assert listed[0]["last_used_at"] is not None
    assert http.get(f"/v1/api-keys/{made['id']}").json() == listed[0]
    assert made["token"] not in http.get("/v1/api-keys").text

    assert http.delete(f"/v1/api-keys/{made['id']}").status_code == 204
    assert http.delete(f"/v1/api-keys/{made['id']}").status_code == 204
    assert opens(server, made["token"]) == 401
    assert http.get(f"/v1/api-keys/{made['id']}").json()["revoked_at"] is not None


def test_keys_are_paged(http):
    made = [make(http, name=name).json()["id"] for name in "ab"]
    first = http.get("/v1/api-keys?limit=1").json()
    second = http.get(f"/v1/api-keys?limit=1&after={first['data'][0]['id']}").json()

    assert [first["data"][0]["id"], second["data"][0]["id"]] == made[::-1]
    assert first["has_more"]


@pytest.mark.parametrize("scopes", [("read",), ("read", "write")])
def test_only_an_admin_manages_keys(make_tenant, scopes):
    tenant = make_tenant(*scopes)
    calls = (
        make(tenant.http),
        tenant.http.get("/v1/api-keys"),
        tenant.http.get(f"/v1/api-keys/{tenant.key_id}"),
        tenant.http.delete(f"/v1/api-keys/{tenant.key_id}"),
        tenant.http.post(f"/v1/api-keys/{tenant.key_id}/rotate"),
        tenant.http.get("/v1/audit-log"),
    )

    assert [answer.status_code for answer in calls] == [403] * len(calls)


def test_nobody_makes_a_key_that_may_do_more_than_their_own(server, make_tenant):
    tenant = make_tenant()
    writer = Caller("key_x", tenant.project_id, frozenset({"write"}))
    with server.database.write() as session:
        with pytest.raises(Forbidden, match="no scope admin itself"):
            service.create(session, writer, KeyCreate(name="more", scopes=["read", "admin"]), most=0)
        with pytest.raises(Forbidden, match="fewer scopes"):
            service.rotate(session, writer, tenant.key_id, KeyRotate(), most=0)
        less = service.create(session, writer, KeyCreate(name="less", scopes=["read"]), most=0)
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
def test_what_cannot_be_names_the_field(http, document, pointer):
    answer = make(http, **document)

    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


def test_a_project_has_only_so_many_keys_in_force_as_each_has_rates_of_its_own(make_server, make_tenant):
    tenant = make_tenant(of=make_server(quota_keys=3))
    made = [make(tenant.http) for _ in range(3)]
    extra = made[1].json()["id"]
    rotate = f"/v1/api-keys/{extra}/rotate"

    assert [answer.status_code for answer in made] == [201, 201, 403]
    assert made[2].json()["code"] == "quota_exceeded"
    assert (made[2].json()["quota"], made[2].json()["limit"]) == ("keys", 3)
    assert tenant.http.post(rotate).status_code == 403
    assert tenant.http.post(rotate, json={"overlap_seconds": 0}).status_code == 201
    assert tenant.http.delete(f"/v1/api-keys/{made[0].json()['id']}").status_code == 204
    assert [make(tenant.http).status_code for _ in range(2)] == [201, 403]


def test_the_last_admin_key_is_not_revoked(server, make_tenant):
    tenant = make_tenant()
    answer = tenant.http.delete(f"/v1/api-keys/{tenant.key_id}")

    assert answer.status_code == 409
    assert answer.json()["code"] == "last_admin_key"
    assert "make another one first" in answer.json()["detail"]
    assert opens(server, tenant.token) == 200


def test_a_rotated_key_has_a_successor_and_both_are_good_for_a_day(server, make_tenant):
    tenant = make_tenant()
    answer = tenant.http.post(f"/v1/api-keys/{tenant.key_id}/rotate")
    made = answer.json()

    assert answer.status_code == 201, answer.text
    assert (made["replaces"], made["scopes"], made["expires_at"]) == (tenant.key_id, ["read", "write", "admin"], None)
    assert [opens(server, token) for token in (tenant.token, made["token"])] == [200, 200]
    end = datetime.fromisoformat(tenant.http.get(f"/v1/api-keys/{tenant.key_id}").json()["expires_at"])
    assert timedelta(hours=23, minutes=59) < end - datetime.now(UTC) <= timedelta(hours=24)

    again = tenant.http.post(f"/v1/api-keys/{tenant.key_id}/rotate")
    assert again.status_code == 409
    assert made["id"] in again.json()["detail"]


def test_without_an_overlap_the_old_key_ends_at_once(server, make_tenant):
    tenant = make_tenant()
    assert opens(server, tenant.token) == 200
    made = tenant.http.post(f"/v1/api-keys/{tenant.key_id}/rotate", json={"overlap_seconds": 0}).json()

    assert [opens(server, token) for token in (tenant.token, made["token"])] == [401, 200]


def test_a_key_whose_end_is_the_end_of_all_dates_has_a_successor_too(make_tenant):
    """As people write "never"; nothing is later, so the successor's end is the same."""
    tenant = make_tenant()
    last = "9999-12-31T23:59:59.999Z"
    made = make(tenant.http, expires_at=last).json()
    answer = tenant.http.post(f"/v1/api-keys/{made['id']}/rotate")

    assert answer.status_code == 201, answer.text
    assert answer.json()["expires_at"] == last


def test_a_repeated_request_makes_no_second_key_and_shows_no_token(server, make_tenant):
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
    made = make(tenant.http).json()
    rotated = tenant.http.post(
        f"/v1/api-keys/{made['id']}/rotate", json={}, headers={"Idempotency-Key": "only-once"}
    ).json()
    file = server.settings.home / "potstill.db"
    kept = b"".join(path.read_bytes() for path in file.parent.glob("potstill.db*"))

    assert rotated["id"].encode() in kept
    for token in (made["token"], rotated["token"], tenant.token):
        assert token.rsplit("_", 1)[1].encode() not in kept
