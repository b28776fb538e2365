import pytest
from pydantic import ValidationError

from core import settings as settings_module
from core.fetch.targets import NetworkPolicy
from core.settings import Settings


def test_lists_are_separated_by_commas(monkeypatch):
    monkeypatch.setenv("POTSTILL_FETCH_ALLOW", "minio.internal, 10.1.0.0/16")
    monkeypatch.setenv("POTSTILL_FETCH_PORTS", "443,9000")

    assert Settings().network_policy == NetworkPolicy.from_settings(["minio.internal", "10.1.0.0/16"], [443, 9000])


def test_by_default_only_the_public_internet_is_allowed():
    assert Settings().network_policy == NetworkPolicy()


def test_pairs_are_separated_by_commas(monkeypatch):
    monkeypatch.setenv("POTSTILL_OIDC_PROJECTS", "team-a=prj_1, cn=b=prj_2")  # a name may contain `=`

    assert Settings().oidc_projects == {"team-a": "prj_1", "cn=b": "prj_2"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FETCH_ALLOW", "10.0.0.1/8"),
        ("FETCH_ALLOW", "https://x"),
        ("FETCH_PORTS", "0"),
        ("FETCH_PORTS", "a"),
        ("CORS_ORIGINS", "app.example"),
        ("CORS_ORIGINS", "https://app.example/"),
        ("OIDC_ISSUER", "http://issuer.example"),
        ("OIDC_ISSUER", "https://issuer.example"),  # without an audience
        ("OIDC_ALGORITHMS", "HS256"),
        ("OIDC_ALGORITHMS", "none"),
        ("OIDC_PROJECTS", "team-a"),
        ("OIDC_SCOPES", "boss=root"),
    ],
)
def test_invalid_values_are_refused_at_startup(monkeypatch, name, value):
    monkeypatch.setenv(f"POTSTILL_{name}", value)

    with pytest.raises(ValidationError):
        Settings()


def test_a_weak_secret_is_refused_and_not_shown(monkeypatch):
    monkeypatch.setenv("POTSTILL_SECRET_KEY", "hunter2")

    with pytest.raises(ValidationError, match="at least 32 characters") as caught:
        Settings()
    assert "hunter2" not in str(caught.value)


def test_a_job_has_a_memory_limit_by_default(monkeypatch):
    monkeypatch.setattr(settings_module, "total_memory", lambda: 1000)
    assert Settings().job_memory_bytes == 800

    monkeypatch.setattr(settings_module, "total_memory", lambda: None)
    assert Settings().job_memory_bytes == 0
    monkeypatch.setenv("POTSTILL_JOB_MEMORY_BYTES", "0")
    assert Settings().job_memory_bytes == 0
