"""``make audit``: report known vulnerabilities of the locked packages.

python -m supply.audit            # succeeds if no advisory service is reachable
python -m supply.audit --strict   # fails if no advisory service is reachable, for CI with network access
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOCK = Path("locks/bench.txt")  # contains all packages
SERVICES = ("osv", "pypi")  # either is sufficient; in order of preference

# Errors in pip-audit's traceback if the service is unreachable.
_NETWORK_ERRORS = ("ConnectionError", "ConnectTimeout", "ReadTimeout", "ProxyError")

# Ignored advisories with the reason and the condition for removal.
ACCEPTED: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class AuditResult:
    """Result of an audit. ``findings`` are lines; with ``num_audited`` 0 the service knows none of the packages."""

    num_audited: int
    num_unknown: int
    findings: tuple[str, ...]


def run_audit(service: str, lock: Path = LOCK) -> AuditResult | None:
    """Audit the lock with an advisory service; return None if the service is unreachable.

    Raises ``RuntimeError`` if pip-audit fails, e.g. because of a missing or invalid lock.
    """
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--require-hashes", "--disable-pip"]
    command += ["--vulnerability-service", service, "--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    for advisory in ACCEPTED:
        command += ["--ignore-vuln", advisory]
    process = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command line
    if process.stdout.lstrip().startswith("{"):
        return parse_report(json.loads(process.stdout))
    if any(word in process.stderr for word in _NETWORK_ERRORS):
        return None
    raise RuntimeError(f"pip-audit failed: {process.stderr.strip()[-500:]}")


def parse_report(report: Mapping[str, Any]) -> AuditResult:
    """Parse pip-audit's JSON report."""
    audited = [package for package in report["dependencies"] if "skip_reason" not in package]
    findings = tuple(
        f"{package['name']} {package['version']}: {vulnerability['id']}, "
        f"fixed in {', '.join(vulnerability['fix_versions']) or 'none'}"
        for package in audited
        for vulnerability in package["vulns"]
    )
    return AuditResult(len(audited), len(report["dependencies"]) - len(audited), findings)


def main(arguments: list[str] | None = None) -> int:
    """Print the findings and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strict", action="store_true", help="fail if no advisory service is reachable")
    strict = parser.parse_args(arguments).strict
    for service in SERVICES:
        result = run_audit(service)
        if result is None or not result.num_audited:
            continue
        print(*result.findings, sep="\n", end="\n" if result.findings else "")
        print(
            f"{result.num_audited} packages audited by {service}, {len(result.findings)} known vulnerabilities; "
            f"{result.num_unknown} packages unknown to the service"
        )
        return 1 if result.findings else 0
    print(f"NOT AUDITED: none of {', '.join(SERVICES)} is reachable; {LOCK} was not audited.")
    return 1 if strict else 0


if __name__ == "__main__":
    sys.exit(main())
