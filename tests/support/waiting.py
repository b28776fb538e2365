"""Polling with a deadline, for what happens in another process or thread."""

import time


def until(condition, seconds=10.0, message="the condition did not become true"):
    """Poll `condition` until it returns a true value, and return that value. Raises TimeoutError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{message} within {seconds:g} s")
        time.sleep(0.02)
    return value


def until_resource(http, path, condition, seconds=120.0):
    """Poll `GET path` until `condition(document)` is true, and return the document. Raises TimeoutError."""
    last = None

    def poll():
        nonlocal last
        last = http.get(path)
        return last.status_code == 200 and condition(last.json())

    deadline = time.monotonic() + seconds
    while not poll():
        if time.monotonic() > deadline:
            raise TimeoutError(f"GET {path} did not reach the expected state within {seconds:g} s: {last.text[:2000]}")
        time.sleep(0.1)
    return last.json()
