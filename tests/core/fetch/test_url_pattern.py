"""Numbered shards in a URL."""

import pytest

from core.fetch.url_pattern import expand_url
from core.ingest_errors import UrlNotAllowed


def test_a_range_stands_for_its_numbers_with_the_digits_of_the_first():
    assert expand_url("https://x/train-{008..010}.tar?k=1") == [
        f"https://x/train-{number}.tar?k=1" for number in ("008", "009", "010")
    ]
    assert expand_url("https://x/a.tar") == ["https://x/a.tar"]


@pytest.mark.parametrize("url", ["https://x/{3..1}.tar", "https://x/{0..10000}.tar", "https://x/{0..1}/{0..1}.tar"])
def test_other_patterns_are_refused(url):
    with pytest.raises(UrlNotAllowed):
        expand_url(url)
