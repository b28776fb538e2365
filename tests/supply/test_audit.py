"""An audit fails for what is known, and does not say "clean" where nobody was asked."""

import pytest

from supply import audit
from supply.audit import Verdict

REPORT = {
    "dependencies": [
        {"name": "good", "version": "1.0", "vulns": []},
        {"name": "bad", "version": "2.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"], "aliases": []}]},
        {"name": "unknown", "skip_reason": "Dependency not found and could not be audited: unknown (1.0)"},
    ],
    "fixes": [],
}


@pytest.fixture
def services(monkeypatch):
    """Advisory services by what they say: a verdict, or None where they cannot be reached."""

    def make(**verdicts):
        monkeypatch.setattr(audit, "ask", lambda service: verdicts[service])

    return make


def test_a_report_is_read_package_by_package():
    assert audit.read(REPORT) == Verdict(2, 1, ("bad 2.0: PYSEC-1, mended in 2.1",))


def test_what_is_known_fails_the_audit(services, capsys):
    services(osv=audit.read(REPORT))

    assert audit.main([]) == 1
    assert "bad 2.0: PYSEC-1" in capsys.readouterr().out


def test_nothing_known_passes_with_the_number_of_packages(services, capsys):
    services(osv=None, pypi=Verdict(150, 3, ()))

    assert audit.main([]) == 0
    said = capsys.readouterr().out
    assert "150 packages audited by pypi, 0 vulnerabilities known; 3 packages are unknown" in said


@pytest.mark.parametrize("nothing", [None, Verdict(0, 150, ())])
def test_a_service_that_says_nothing_is_no_audit(services, nothing, capsys):
    services(osv=None, pypi=nothing)

    assert audit.main([]) == 0
    assert "NOT AUDITED" in capsys.readouterr().out
    assert audit.main(["--strict"]) == 1


def test_a_service_out_of_reach_has_no_verdict(tmp_path, monkeypatch):
    """With the real tool, and a proxy that nobody listens at."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    lock = tmp_path / "lock.txt"
    lock.write_text(f"six==1.17.0 --hash=sha256:{'0' * 64}\n")

    assert audit.ask("osv", lock) is None


def test_a_lock_that_cannot_be_read_is_no_service_out_of_reach(tmp_path):
    lock = tmp_path / "lock.txt"
    lock.write_text("six=1\n")

    with pytest.raises(RuntimeError, match="pip-audit failed"):
        audit.ask("osv", lock)
