"""Server time and weight of each page of the dashboard with 10,000 jobs, and problems that axe-core finds.

Also the time of the curves of a job with 100,000 steps, and of the frames while the pointer moves over them.

``--screenshots FOLDER`` writes each page at three widths, light and dark. Nothing is trained: the rows are inserted.
The API and the inspector are real processes.
"""

from __future__ import annotations

import argparse
import gzip
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx

from benchmarks import api_process
from benchmarks.dashboard_admin_rows import Administration
from benchmarks.dashboard_data import add_datasets, add_students
from benchmarks.dashboard_rows import Project
from benchmarks.figures import Figure, figure, save_figures
from core.store.storage_url import open_store

WIDTHS = (390, 1280, 1920)
SCHEMES = ("light", "dark")
AXE = Path(__file__).resolve().parent.parent / "tests" / "support" / "axe" / "axe.min.js"
MAX_MILLISECONDS, MAX_KILOBYTES = 100, 200
_SERIOUS = ("serious", "critical")
_NUM_DETAILED = 6
_LONG_STEPS = 100_000
_MAX_FRAME_MILLISECONDS = 34  # two frames of a screen with 60 Hz
_START_SECONDS = 300.0
_BROWSER_MILLISECONDS = 120_000
_SETTLE_SECONDS = 1.5  # for charts, and for the estimate of the form
_DRAWN = ("new-job", "compare", "usage", "api-redoc")  # pages that scripts draw
_LONG = ("methods", "api", "api-redoc")  # pages of which a screenshot shows the first window


@dataclass(frozen=True, slots=True)
class Site:
    """A running service with its pages by name."""

    url: str
    token: str
    pages: Mapping[str, str]


def main(arguments: Sequence[str]) -> int:
    """Measure the pages, or write screenshots."""
    options = _parser().parse_args(arguments)
    num_jobs = options.jobs or (200 if options.screenshots else 10_000)
    with tempfile.TemporaryDirectory(prefix="dashboard-") as folder, _site(Path(folder), num_jobs) as site:
        if options.screenshots:
            _write_screenshots(_only(site, options.pages), options.screenshots, options.widths, options.schemes)
            return 0
        figures = [*_server_times(site, options.repeats), *_weights(site), *_long_curves(site, options.repeats)]
        problems = _accessibility_problems(site)
    save_figures("dashboard", (__doc__ or "").strip(), figures, path=options.out, jobs=num_jobs, axe=problems)
    for page, found in problems.items():
        print(f"axe, {page}: {', '.join(found) or 'nothing serious'}", flush=True)
    return 1 if any(problems.values()) else 0


def _only(site: Site, names: Sequence[str] | None) -> Site:
    return site if not names else replace(site, pages={name: site.pages[name] for name in names})


@contextmanager
def _site(folder: Path, num_jobs: int) -> Iterator[Site]:
    with api_process.service(folder, "sqlite") as service:
        command = [sys.executable, "-P", "-m", "server", "inspector"]
        with api_process.process(command, folder / "inspector.log", service.environment):
            database = service.open_database()
            store = open_store(f"file://{folder}/home/artifacts")
            project = Project(database, store, service.project_id, service.dataset_id)
            project.add_old_jobs(num_jobs)
            project.add_model()
            finished = [project.add_finished_job(index, folder) for index in range(_NUM_DETAILED)]
            failed, running = project.add_failed_job(), project.add_running_job()
            long = project.add_long_job(_LONG_STEPS)
            project.add_processes(running)
            sweep = project.add_sweep(folder)
            administration = Administration(database, service.project_id)
            administration.add_keys()
            administration.add_audit_entries()
            webhook, delivery = administration.add_webhooks()
            shapes = add_datasets(database, store, service.project_id, folder)
            student = add_students(database, store, service.project_id, finished[0], folder)
            database.dispose()
            _wait_for_inspector(service.url, service.token)
            pages = {
                **_pages(finished, failed, running, sweep, long),
                **_admin_pages(webhook, delivery),
                **_data_pages(shapes, student),
            }
            yield Site(service.url, service.token, pages)


def _wait_for_inspector(url: str, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=url, timeout=60, trust_env=False, headers=headers) as client:
        ends = time.monotonic() + _START_SECONDS
        while client.get("/v1/architectures").status_code != httpx.codes.OK:
            if time.monotonic() > ends:
                raise TimeoutError("the inspector does not answer")
            time.sleep(0.5)


def _pages(finished: Sequence[str], failed: str, running: str, sweep: str, long: str) -> dict[str, str]:
    return {
        "login": "/login",
        "jobs": "/jobs",
        "jobs-filtered": "/jobs?method=kd&search=student&sort=top1&columns=top1&columns=size_bytes&columns=seconds",
        "new-job": f"/jobs/new?from={finished[0]}",
        "job-running": f"/jobs/{running}",
        "job-finished": f"/jobs/{finished[0]}",
        "job-failed": f"/jobs/{failed}",
        "job-long": f"/jobs/{long}",
        "compare": f"/compare?jobs={','.join(finished)}",
        "sweeps": "/sweeps",
        "sweep": f"/sweeps/{sweep}",
        "methods": "/methods",
        "workers": "/workers",
        "api": "/docs",
        "not-found": "/jobs/job_nothing",
    }


def _admin_pages(webhook: str, delivery: str) -> dict[str, str]:
    return {
        "keys": "/keys",
        "webhooks": "/webhooks",
        "webhook": f"/webhooks/{webhook}",
        "delivery": f"/webhooks/{webhook}/deliveries/{delivery}",
        "usage": "/usage",
        "audit": "/audit",
        "api-redoc": "/docs/redoc",
    }


def _data_pages(dataset: str, model: str) -> dict[str, str]:
    return {
        "datasets": "/datasets",
        "datasets-form": "/datasets?add=yes",
        "dataset": f"/datasets/{dataset}",
        "dataset-failed": "/datasets/scans",
        "dataset-processing": "/datasets/street%20signs",
        "models": "/models",
        "models-form": "/models?add=yes",
        "model": f"/models/{model}",
    }


def _server_times(site: Site, repeats: int) -> Iterator[Figure]:
    with _client(site) as client:
        for name, path in site.pages.items():
            times = []
            for _ in range(repeats + 1):
                began = time.perf_counter()
                client.get(path)
                times.append(1000 * (time.perf_counter() - began))
            yield figure(f"server time of {name}", times[1:], "ms", goal=f"≤ {MAX_MILLISECONDS}")


def _weights(site: Site) -> Iterator[Figure]:
    """Yield the compressed bytes of each page with its style sheets and scripts, with the modules that they import."""
    sizes: dict[str, int] = {}
    with _client(site) as client:
        for name, path in site.pages.items():
            html = client.get(path).text
            files = set(re.findall(r'(?:href|src)="(/dashboard/static/[^"]+|/docs/[^"]+\.css)"', html))
            files |= set(re.findall(r'data-data-url="([^"]+)"', html))
            pending = list(files)
            while pending:
                url = pending.pop()
                if url not in sizes:
                    content = client.get(url).content
                    sizes[url] = len(gzip.compress(content, mtime=0))
                    base = str(httpx.URL(site.url).join(url))
                    if url.endswith(".js"):
                        found = re.findall(r'(?:from|import) ?"(\.[^"]+)"', content.decode())
                        modules = {httpx.URL(base).join(each).path for each in found}
                        _imports[url] = modules
                pending += [each for each in _imports.get(url, ()) if each not in files]
                files |= _imports.get(url, set())
            total = len(gzip.compress(html.encode(), mtime=0)) + sum(sizes[each] for each in files)
            yield figure(
                f"weight of {name}", [total / 1000], "kB", goal=f"≤ {MAX_KILOBYTES}", detail=f"{len(files)} files"
            )


_imports: dict[str, set[str]] = {}

_FRAME_TIMES = """() => new Promise((resolve) => {
  const times = [];
  const next = (now) => { times.push(now); times.length <= 120 ? requestAnimationFrame(next) : resolve(times); };
  requestAnimationFrame(next);
})"""


def _long_curves(site: Site, repeats: int) -> Iterator[Figure]:
    """Yield the time of the request for the curves of the long job, and of the frames while the pointer moves."""
    path = site.pages["job-long"]
    with _browser() as browser:
        page = _signed_in(browser, site, width=1280, scheme="light")
        with page.expect_response(re.compile("max_points=")) as response:
            page.goto(path)
        url = response.value.url
        page.wait_for_selector(".chart canvas, .uplot canvas")
        box = page.locator(".uplot .u-over").first.bounding_box()
        # In braces, because `evaluate` waits for a promise that it returns, and the pointer moves meanwhile.
        page.evaluate(f"() => {{ ({_FRAME_TIMES})().then((times) => {{ globalThis.frameTimes = times; }}); }}")
        while page.evaluate("globalThis.frameTimes === undefined"):
            for share in range(0, 100, 5):
                page.mouse.move(box["x"] + box["width"] * share / 100, box["y"] + box["height"] / 2)
        moments = page.evaluate("globalThis.frameTimes")
    with _client(site) as client:
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            size = len(client.get(url).content)
            times.append(1000 * (time.perf_counter() - began))
    question = f"server time of the curves of {_LONG_STEPS:,} steps"
    yield figure(question, times, "ms", goal=f"≤ {MAX_MILLISECONDS}", detail=f"{size / 1000:.0f} kB")
    frames = [after - before for before, after in pairwise(moments)]
    question = f"frame time over the curves of {_LONG_STEPS:,} steps, 95th percentile"
    yield figure(question, frames, "ms", goal=f"≤ {_MAX_FRAME_MILLISECONDS}", percentile=95)


@contextmanager
def _client(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=60, trust_env=False, follow_redirects=True) as client:
        client.post("/login", data={"key": site.token}, headers={"Sec-Fetch-Site": "same-origin"})
        yield client


def _accessibility_problems(site: Site) -> dict[str, list[str]]:
    """Return the serious rules of axe-core that each page breaks, in both color schemes."""
    problems: dict[str, list[str]] = {}
    script = AXE.read_text(encoding="utf-8")
    with _browser() as browser:
        for scheme in SCHEMES:
            page = _signed_in(browser, site, width=1280, scheme=scheme)
            for name, path in site.pages.items():
                page.goto(path)
                time.sleep(_SETTLE_SECONDS)
                page.evaluate(script)
                found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
                broken = [f"{each['id']} ({scheme})" for each in found if each["impact"] in _SERIOUS]
                problems[name] = problems.get(name, []) + broken
    return problems


def _write_screenshots(site: Site, folder: Path, widths: Sequence[int], schemes: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with _browser() as browser:
        for scheme in schemes:
            for width in widths:
                page = _signed_in(browser, site, width=width, scheme=scheme)
                for name, path in site.pages.items():
                    page.goto(path)
                    time.sleep(_SETTLE_SECONDS if name in _DRAWN or name.startswith("job-") else 0.3)
                    page.screenshot(path=folder / f"{name}-{width}-{scheme}.png", full_page=name not in _LONG)
                    wide = page.evaluate("document.documentElement.scrollWidth")
                    if wide > width:
                        print(f"{name} is {wide} pixels wide at {width}", flush=True)
                page.context.close()
    print(f"{len(widths) * len(schemes) * len(site.pages)} screenshots are in {folder}", flush=True)


@contextmanager
def _browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright  # a development dependency

    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        raise SystemExit("no Chromium found: install it (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def _signed_in(browser: Any, site: Site, *, width: int, scheme: str) -> Any:
    context = browser.new_context(
        base_url=site.url, viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True
    )
    page = context.new_page()
    page.set_default_timeout(_BROWSER_MILLISECONDS)
    page.goto("/login")
    page.get_by_label("API key").fill(site.token)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/jobs")
    return page


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks dashboard", description=__doc__)
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER", help="write screenshots instead of measuring")
    parser.add_argument("--pages", nargs="+", metavar="NAME", help="only screenshots of these pages, e.g. jobs compare")
    parser.add_argument("--widths", nargs="+", type=int, default=WIDTHS, metavar="PIXELS", help="of screenshots")
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, default=SCHEMES, help="of screenshots")
    parser.add_argument("--jobs", type=int, help="number of jobs; default 10,000, and 200 for screenshots")
    parser.add_argument("--repeats", type=int, default=15, help="requests of each page")
    parser.add_argument("--out", type=Path, help="write the result here")
    return parser
