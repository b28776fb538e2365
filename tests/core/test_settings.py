import pytest
from pydantic import ValidationError

from core.fetch.targets import Reach
from core.settings import Settings


def test_lists_are_written_with_commas(monkeypatch):
    monkeypatch.setenv("POTSTILL_FETCH_ALLOW", "minio.internal, 10.1.0.0/16")
    monkeypatch.setenv("POTSTILL_FETCH_PORTS", "443,9000")

    assert Settings().reach == Reach.of(["minio.internal", "10.1.0.0/16"], [443, 9000])


def test_by_default_only_the_public_internet_is_reached():
    assert Settings().reach == Reach()


@pytest.mark.parametrize(
    ("name", "value"), [("ALLOW", "10.0.0.1/8"), ("ALLOW", "https://x"), ("PORTS", "0"), ("PORTS", "a")]
)
def test_what_cannot_be_is_refused_at_the_start(monkeypatch, name, value):
    monkeypatch.setenv(f"POTSTILL_FETCH_{name}", value)

    with pytest.raises(ValidationError):
        Settings()
