"""Limit on wrong keys per client address."""

import httpx
import pytest

from api import auth_throttle
from api.auth_throttle import AuthThrottle
from api.session_cookie import COOKIE_NAME, issue_cookie
from core.errors import RateLimited
from core.store import keys

WRONG = {"Authorization": "Bearer ps_" + "0" * 26 + "_" + "0" * 64}


@pytest.fixture
def strict(make_server):
    return make_server(rate_wrong_keys_per_minute=3)


def test_an_address_is_limited_after_too_many_wrong_keys(strict, make_tenant):
    old, new = make_tenant(on=strict), make_tenant(on=strict)
    assert old.http.get("/v1/jobs").status_code == 200
    with httpx.Client(base_url=strict.url, trust_env=False) as client:
        responses = [client.get("/v1/jobs", headers=WRONG) for _ in range(5)]
        page = client.post("/login", data={"key": "ps_guess"}, headers={"Sec-Fetch-Site": "same-origin"})
        cookie = client.get("/v1/jobs", headers={"Cookie": f"{COOKIE_NAME}=forged"})
        nothing = client.get("/v1/jobs")

    assert [response.status_code for response in responses] == [401, 401, 401, 429, 429]
    assert responses[-1].json()["code"] == "rate_limited"
    assert 1 <= int(responses[-1].headers["Retry-After"]) <= 20
    assert [page.status_code, cookie.status_code, nothing.status_code] == [429, 429, 401]
    # A cached key and a session are exempt at the same address; a new key is not.
    assert old.http.get("/v1/jobs").status_code == 200
    session = issue_cookie(strict.app.state.app_state.cookie_secret, old.key_id)
    with httpx.Client(base_url=strict.url, cookies={COOKIE_NAME: session}, trust_env=False) as browser:
        assert browser.get("/v1/jobs").status_code == 200
    assert new.http.get("/v1/jobs").status_code == 429


def test_a_revoked_key_counts_as_a_wrong_key(strict, make_tenant):
    tenant = make_tenant(on=strict)
    assert tenant.http.get("/v1/jobs").status_code == 200
    with strict.database.write() as session:
        keys.revoke(session, tenant.project_id, tenant.key_id)

    assert [tenant.http.get("/v1/jobs").status_code for _ in range(5)] == [401, 401, 401, 429, 429]


def test_wrong_keys_at_sign_in_and_forged_cookies_count(strict):
    with httpx.Client(base_url=strict.url, trust_env=False) as client:
        client.post("/login", data={"key": "ps_guess"}, headers={"Sec-Fetch-Site": "same-origin"})
        client.get("/v1/jobs", headers={"Cookie": f"{COOKIE_NAME}=forged"})
        client.get("/v1/jobs", headers=WRONG)

        assert client.get("/v1/jobs", headers=WRONG).status_code == 429


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_the_limit_of_an_address_recovers_with_time():
    clock = Clock()
    throttle = AuthThrottle(2, clock=clock)
    for _ in range(2):
        throttle.check("203.0.113.7")
        throttle.count("203.0.113.7")
    with pytest.raises(RateLimited) as caught:
        throttle.check("203.0.113.7")
    throttle.check("203.0.113.8")

    clock.now = caught.value.extra["retry_after_seconds"]
    throttle.check("203.0.113.7")


def test_addresses_of_one_ipv6_network_share_a_limit():
    throttle = AuthThrottle(1)
    throttle.count("2001:db8:1:2::1")

    with pytest.raises(RateLimited):
        throttle.check("2001:db8:1:2:ffff::9")
    throttle.check("2001:db8:1:3::1")


def test_a_limit_of_zero_disables_the_throttle():
    throttle = AuthThrottle(0)
    for _ in range(100):
        throttle.count("203.0.113.7")
    throttle.check("203.0.113.7")


def test_the_number_of_stored_addresses_is_bounded(monkeypatch):
    monkeypatch.setattr(auth_throttle, "_MAX_ADDRESSES", 10)
    throttle = AuthThrottle(1)
    for number in range(50):
        throttle.count(f"198.51.100.{number}")

    assert len(throttle._levels) == 10
