"""The audit fails for known vulnerabilities and reports unreachable services."""

import pytest

from supply import audit
from supply.audit import AuditResult

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
    """Set the results of the advisory services; None if unreachable."""

    def make(**results):
        monkeypatch.setattr(audit, "run_audit", lambda service: results[service])

    return make


def test_a_report_is_parsed():
    assert audit.parse_report(REPORT) == AuditResult(2, 1, ("bad 2.0: PYSEC-1, fixed in 2.1",))


def test_a_known_vulnerability_fails_the_audit(services, capsys):
    services(osv=audit.parse_report(REPORT))

    assert audit.main([]) == 1
    assert "bad 2.0: PYSEC-1" in capsys.readouterr().out


def test_an_audit_without_findings_passes(services, capsys):
    services(osv=None, pypi=AuditResult(150, 3, ()))

    assert audit.main([]) == 0
    output = capsys.readouterr().out
    assert "150 packages audited by pypi, 0 known vulnerabilities; 3 packages unknown" in output


@pytest.mark.parametrize("result", [None, AuditResult(0, 150, ())])
def test_no_audited_package_is_not_an_audit(services, result, capsys):
    services(osv=None, pypi=result)

    assert audit.main([]) == 0
    assert "NOT AUDITED" in capsys.readouterr().out
    assert audit.main(["--strict"]) == 1


def test_an_unreachable_service_returns_none(tmp_path, monkeypatch):
    """Uses the real tool and a proxy without a listener."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    lock = tmp_path / "lock.txt"
    lock.write_text(f"six==1.17.0 --hash=sha256:{'0' * 64}\n")

    assert audit.run_audit("osv", lock) is None


def test_an_unreadable_lock_raises(tmp_path):
    lock = tmp_path / "lock.txt"
    lock.write_text("six=1\n")

    with pytest.raises(RuntimeError, match="pip-audit failed"):
        audit.run_audit("osv", lock)
