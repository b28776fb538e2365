"""``make audit``: known vulnerabilities of the packages that the locks name, asked of an advisory service.

python -m supply.audit            # says so, and is content, where no service can be reached
python -m supply.audit --strict   # fails then, for a pipeline that has a network
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

LOCK = Path("locks/bench.txt")  # the one that names them all
SERVICES = ("osv", "pypi")  # either knows of everything; the second is asked where the first cannot be reached

# What its traceback ends with where there is no way to the service.
_OUT_OF_REACH = ("ConnectionError", "ConnectTimeout", "ReadTimeout", "ProxyError")

# Advisories that we live with, each with the reason and what ends it. Nothing so far.
ACCEPTED: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a service said. ``findings`` are lines; ``num_audited`` 0: it knew of no package, so it said nothing."""

    num_audited: int
    num_unknown: int
    findings: tuple[str, ...]


def ask(service: str, lock: Path = LOCK) -> Verdict | None:
    """The verdict of an advisory service, or None where it cannot be reached.

    Raises ``RuntimeError`` where pip-audit itself fails: no lock, a lock that it cannot read, no pip-audit.
    """
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--require-hashes", "--disable-pip"]
    command += ["--vulnerability-service", service, "--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    for advisory in ACCEPTED:
        command += ["--ignore-vuln", advisory]
    run = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command line
    if run.stdout.lstrip().startswith("{"):
        return read(json.loads(run.stdout))
    if any(word in run.stderr for word in _OUT_OF_REACH):
        return None
    raise RuntimeError(f"pip-audit failed: {run.stderr.strip()[-500:]}")


def read(report: Mapping[str, Any]) -> Verdict:
    """What pip-audit's report says."""
    audited = [package for package in report["dependencies"] if "skip_reason" not in package]
    findings = tuple(
        f"{package['name']} {package['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'none'}"
        for package in audited
        for found in package["vulns"]
    )
    return Verdict(len(audited), len(report["dependencies"]) - len(audited), findings)


def main(arguments: list[str] | None = None) -> int:
    """Print what is known; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strict", action="store_true", help="fail where no advisory service can be reached")
    strict = parser.parse_args(arguments).strict
    for service in SERVICES:
        verdict = ask(service)
        if verdict is None or not verdict.num_audited:
            continue
        print(*verdict.findings, sep="\n", end="\n" if verdict.findings else "")
        print(
            f"{verdict.num_audited} packages audited by {service}, {len(verdict.findings)} vulnerabilities known; "
            f"{verdict.num_unknown} packages are unknown to it"
        )
        return 1 if verdict.findings else 0
    print(f"NOT AUDITED: none of {', '.join(SERVICES)} can be reached from here; nothing is known of {LOCK}.")
    return 1 if strict else 0


if __name__ == "__main__":
    sys.exit(main())
