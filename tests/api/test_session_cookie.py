import pytest
from itsdangerous import URLSafeTimedSerializer

from api.session_cookie import is_same_origin, issue_cookie, read_cookie
from core.ids import new_id

SECRET = "a secret of this test"


def test_a_cookie_names_the_key_that_signed_in():
    key_id = new_id("key")

    assert read_cookie(SECRET, issue_cookie(SECRET, key_id)) == key_id


def test_a_cookie_signed_with_another_secret_is_invalid():
    assert read_cookie(SECRET, issue_cookie("another", new_id("key"))) is None


@pytest.mark.parametrize("position", [0, 20, 60, -1])
def test_a_modified_cookie_is_invalid(position):
    cookie = list(issue_cookie(SECRET, new_id("key")))
    cookie[position] = "A" if cookie[position] != "A" else "Q"  # the two lowest bits of the last letter are not used

    assert read_cookie(SECRET, "".join(cookie)) is None


@pytest.mark.parametrize("garbage", ["", ".", "a.b.c", "é", "x" * 10_000])
def test_garbage_is_invalid(garbage):
    assert read_cookie(SECRET, garbage) is None


def test_an_expired_cookie_is_invalid():
    assert read_cookie(SECRET, issue_cookie(SECRET, new_id("key")), max_age_seconds=-1) is None


def test_a_value_signed_for_another_purpose_is_invalid():
    assert read_cookie(SECRET, URLSafeTimedSerializer(SECRET).dumps(new_id("key"))) is None


def test_an_empty_secret_is_an_error():
    with pytest.raises(ValueError, match="is empty"):
        issue_cookie("", new_id("key"))


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "cross-site", "origin": "http://here", "host": "here"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"origin": "http://here:8000", "host": "here:8000"}, True),
        ({"origin": "https://HERE", "host": "here"}, True),
        ({"origin": "http://elsewhere", "host": "here"}, False),
        ({"origin": "null", "host": "here"}, False),
        ({"host": "here"}, False),
        ({}, False),
    ],
)
def test_same_origin_requests_are_recognized(headers, expected):
    assert is_same_origin(headers) is expected
