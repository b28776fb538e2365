"""Whoever sends many wrong keys has to wait."""

import httpx
import pytest

from api.auth_throttle import AuthThrottle
from api.session_cookie import COOKIE_NAME, issue_cookie
from core.errors import RateLimited
from core.store import keys

WRONG = {"Authorization": "Bearer ps_" + "0" * 26 + "_" + "0" * 64}


@pytest.fixture
def strict(make_server):
    return make_server(rate_wrong_keys_per_minute=3)


def test_after_too_many_wrong_keys_an_address_has_to_wait(strict, make_tenant):
    old, new = make_tenant(of=strict), make_tenant(of=strict)
    assert old.http.get("/v1/jobs").status_code == 200
    with httpx.Client(base_url=strict.url, trust_env=False) as guesser:
        answers = [guesser.get("/v1/jobs", headers=WRONG) for _ in range(5)]
        page = guesser.post("/login", data={"key": "ps_guess"}, headers={"Sec-Fetch-Site": "same-origin"})
        cookie = guesser.get("/v1/jobs", headers={"Cookie": f"{COOKIE_NAME}=forged"})
        nothing = guesser.get("/v1/jobs")

    assert [answer.status_code for answer in answers] == [401, 401, 401, 429, 429]
    assert answers[-1].json()["code"] == "rate_limited"
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 20
    assert [page.status_code, cookie.status_code, nothing.status_code] == [429, 429, 401]
    # A key that was right before is let in from there all the same, and so is a session; a new one waits.
    assert old.http.get("/v1/jobs").status_code == 200
    session = issue_cookie(strict.app.state.parts.cookie_secret, old.key_id)
    with httpx.Client(base_url=strict.url, cookies={COOKIE_NAME: session}, trust_env=False) as browser:
        assert browser.get("/v1/jobs").status_code == 200
    assert new.http.get("/v1/jobs").status_code == 429


def test_a_key_that_was_revoked_is_a_wrong_one_like_any_other(strict, make_tenant):
    tenant = make_tenant(of=strict)
    assert tenant.http.get("/v1/jobs").status_code == 200
    with strict.database.write() as session:
        keys.revoke(session, tenant.project_id, tenant.key_id)

    assert [tenant.http.get("/v1/jobs").status_code for _ in range(5)] == [401, 401, 401, 429, 429]


def test_a_wrong_key_at_the_gate_and_a_forged_cookie_count_too(strict):
    with httpx.Client(base_url=strict.url, trust_env=False) as guesser:
        guesser.post("/login", data={"key": "ps_guess"}, headers={"Sec-Fetch-Site": "same-origin"})
        guesser.get("/v1/jobs", headers={"Cookie": f"{COOKIE_NAME}=forged"})
        guesser.get("/v1/jobs", headers=WRONG)

        assert guesser.get("/v1/jobs", headers=WRONG).status_code == 429


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_an_address_is_forgiven_with_time():
    clock = Clock()
    guesses = AuthThrottle(2, clock=clock)
    for _ in range(2):
        guesses.check("203.0.113.7")
        guesses.count("203.0.113.7")
    with pytest.raises(RateLimited) as refused:
        guesses.check("203.0.113.7")
    guesses.check("203.0.113.8")

    clock.now = refused.value.extra["retry_after_seconds"]
    guesses.check("203.0.113.7")


def test_a_host_cannot_go_on_from_another_address_of_its_own_network():
    guesses = AuthThrottle(1)
    guesses.count("2001:db8:1:2::1")

    with pytest.raises(RateLimited):
        guesses.check("2001:db8:1:2:ffff::9")
    guesses.check("2001:db8:1:3::1")


def test_no_limit_refuses_nobody():
    guesses = AuthThrottle(0)
    for _ in range(100):
        guesses.count("203.0.113.7")
    guesses.check("203.0.113.7")


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr("api.auth_throttle._REMEMBERED", 10)
    guesses = AuthThrottle(1)
    for number in range(50):
        guesses.count(f"198.51.100.{number}")

    assert len(guesses._spent) == 10
