"""Requests of curl commands in documents."""

import shlex

import httpx


def parse_curl(command, environment):
    """Return method, URL, headers, body and form of a curl command, as a shell with these variables passes it."""
    for name, value in environment.items():
        command = command.replace(name, value)
    words = iter(shlex.split(command.replace("\\\n", "")))
    assert next(words) == "curl"
    method, url, headers, data, form = None, None, {}, None, {}
    for word in words:
        match word:
            case "-X":
                method = next(words)
            case "-H":
                name, _, value = next(words).partition(": ")
                headers[name] = value
            case "-d" | "--data-binary":
                data = next(words)
            case "-F":
                name, _, value = next(words).partition("=")
                form[name] = value
            case "--output":
                next(words)
            case _:
                assert url is None, word
                url = httpx.URL(word)
    return method or ("POST" if data or form else "GET"), url, headers, data, form
