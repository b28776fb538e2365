"""What every request meets: health, ids, unknown paths, limits."""


def test_health_asks_for_no_key_and_head_works(server):
    import httpx

    answer = httpx.get(f"{server.url}/healthz")

    assert answer.json() == {"status": "ok"}
    assert httpx.head(f"{server.url}/readyz").status_code in {200, 503}
