"""The documentation site builds without a warning, and the API serves it."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from api import guide

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site. Strict: a link to a page or an anchor that does not exist fails the build."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copy(ROOT / "zensical.toml", folder)
    shutil.copytree(ROOT / "docs", folder / "docs")
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--strict"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder / "build" / "site"


def test_every_page_is_in_the_navigation():
    nav = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    listed = set(re.findall(r"'([\w/]+\.md)'", str(nav)))

    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= listed


def test_the_api_serves_the_site_and_allows_only_its_own_scripts(site):
    app = Starlette()
    guide.install(app, site)
    with TestClient(app) as client:
        home = client.get("/guide")
        page = client.get("/guide/start.html")
        missing = client.get("/guide/missing.html")

    policy = home.headers["Content-Security-Policy"]
    scripts = next(part for part in policy.split("; ") if part.startswith("script-src"))
    assert "Potstill" in home.text
    assert page.status_code == 200
    assert missing.status_code == 404
    assert "'sha256-" in scripts
    assert "unsafe" not in scripts
    assert not re.findall(r'(?:src|href)="https?://(?!zensical\.org|arxiv\.org|github\.com)', home.text)
