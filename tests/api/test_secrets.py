"""No key, cookie or password appears in a log or response of a real process, wherever a client sends it."""

import os
import subprocess
import sys
import time
from urllib.parse import quote

import httpx
import pytest

from core.settings import Settings
from core.store import keys, projects
from core.store.db import migrate, open_database
from tests.support.ports import free_port
from tests.support.waiting import until

PASSWORD = "hunter2hunter2"


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    """`potstill-server api` with a password in its broker URL and log level debug."""
    home = tmp_path_factory.mktemp("home")
    port = free_port()
    settings = Settings(home=home)
    migrate(settings.resolved_database_url())
    database = open_database(settings)
    with database.write() as session:
        token = keys.create(session, projects.create(session, "p").id, name="k").token
    database.dispose()
    environment = {
        **os.environ,
        "POTSTILL_BROKER_URL": f"redis://user:{PASSWORD}@127.0.0.1:1/0",
        "POTSTILL_LOG_LEVEL": "debug",
    }
    url = f"http://127.0.0.1:{port}"
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "server", "api", "--home", str(home), "--port", str(port)],
            stdout=log,
            stderr=log,
            env=environment,
        )
    deadline = time.monotonic() + 60
    while not is_up(url):
        assert time.monotonic() < deadline, (home / "log").read_text()
        assert process.poll() is None, (home / "log").read_text()
        time.sleep(0.05)
    yield url, token, home / "log"
    process.terminate()
    process.wait(20)


def is_up(url):
    try:
        return httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def requests(token):
    """Yield unusual requests that contain the token."""
    cut = token[:70]
    yield "GET", f"/{token}", {}
    yield "GET", f"/v1/jobs/{token}", {}
    yield "GET", f"/v1/jobs/{cut}", {}
    yield "GET", f"/v1/datasets/{quote(token)}%2F..", {}
    yield "GET", f"/jobs/{token}?key={token}", {}
    yield "GET", f"/login?next=/jobs/{token}", {}
    yield "POST", f"/jobs/{token}/cancel", {"headers": {"Sec-Fetch-Site": "same-origin"}}
    yield "GET", "/v1/jobs", {"params": {"after": token, "status": token, "limit": token, token: token}}
    yield "GET", "/v1/architectures", {"params": {"search": token}}
    yield "GET", "/v1/audit-log", {"params": {"key": cut[:64], "after": token}}
    yield "GET", "/v1/jobs", {"headers": {"X-Request-Id": token}}
    yield "GET", "/v1/jobs", {"headers": {"Cookie": f"potstill_session={token}; other={token}"}}
    yield "GET", "/v1/jobs", {"headers": {"X-Api-Key": token, "Referer": f"http://x/{token}", "Origin": token}}
    yield "POST", "/v1/jobs", {"json": {token: token, "dataset": token, "method": {"name": token}}}
    yield "POST", "/v1/jobs", {"content": f'{{"{token}'.encode(), "headers": {"Content-Type": "application/json"}}
    yield "POST", "/v1/jobs", {"content": token.encode(), "headers": {"Content-Type": token}}
    yield "POST", "/v1/datasets", {"json": {"source": {"type": token, token: 1}}}
    yield "POST", "/v1/datasets", {"files": {token: (token, token.encode())}}
    yield "POST", "/v1/datasets", {"files": {"file": (token, token.encode())}, "data": {"labels": token}}
    yield "POST", "/v1/models", {"files": {"file": (token, token.encode())}, "data": {"architecture": token}}
    yield "POST", "/v1/api-keys", {"json": {"name": [token], "scopes": [token], token: token}}
    yield (
        "POST",
        "/v1/api-keys",
        {"json": {"name": "n", "expires_at": token}, "headers": {"Idempotency-Key": token * 9}},
    )
    yield "POST", "/login", {"data": {"key": token[:-1], "next": token}, "headers": {"Sec-Fetch-Site": "same-origin"}}
    yield token[:20], f"/v1/{token}", {}


def test_no_secret_is_in_a_log_or_response(process):
    url, token, log = process
    secret = token.rsplit("_", 1)[1][:12]
    num_requests = 0
    with httpx.Client(base_url=url, trust_env=False) as client:
        for method, path, arguments in requests(token):
            for authorization in ({"Authorization": f"Bearer {token}"}, {"Authorization": f"Bearer {token}x"}, {}):
                headers = {**arguments.get("headers", {}), **authorization}
                response = client.request(method, path, **{**arguments, "headers": headers})
                content = response.text + str(response.headers)
                assert secret not in content, f"{method} {path} {arguments}: {content}"
                assert response.status_code < 500 or response.status_code == 503, response.text
                num_requests += 1
        signed_in = client.post("/login", data={"key": token}, headers={"Sec-Fetch-Site": "same-origin"})
        cookie = signed_in.cookies["potstill_session"]
        client.get(f"/v1/jobs/potstill_session={cookie}")

    last_path = '"/v1/jobs/potstill_session=[hidden]"'
    until(
        lambda: last_path in log.read_text(), 20, "the last request was not logged"
    )  # it is logged after the response
    written = log.read_text()
    assert written.count('"http.request"') >= num_requests
    assert "[hidden]" in written
    for value in (secret, PASSWORD, cookie):
        assert value not in written, next(line for line in written.splitlines() if value in line)
