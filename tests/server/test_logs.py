"""Logs are JSON lines; the terminal shows a short form."""

import json
import os
import re
import subprocess
import sys

import pytest

from server.logs import format_line

SCRIPT = """
import logging, warnings, structlog
from server.logs import configure_logging
configure_logging("api", "info")
with structlog.contextvars.bound_contextvars(request_id="req_1"):
    structlog.get_logger("api").info("job.created", job_id="job_1")
    logging.getLogger("library").warning("library %s", "message")
structlog.get_logger("api").debug("too.much")
warnings.warn("old")
try:
    1 / 0
except ZeroDivisionError:
    structlog.get_logger("api").exception("it.broke")
"""


def test_every_log_line_is_one_json_object():
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    lines = [json.loads(line) for line in run.stderr.splitlines()]

    assert [line["event"] for line in lines[:2]] == ["job.created", "library message"]
    assert all(line["role"] == "api" for line in lines)
    assert [line.get("request_id") for line in lines[:2]] == ["req_1", "req_1"]
    assert "old" in lines[2]["event"]
    assert "ZeroDivisionError" in lines[3]["exception"]
    assert len(lines) == 4


SECRETS = """
import logging, structlog
from server.logs import configure_logging
configure_logging("api", "info")
token = "ps_" + "0" * 26 + "_" + "ab" * 32
structlog.get_logger("api").info("http.request", path=f"/v1/jobs/{token}", headers={"authorization": "Bearer x"})
logging.getLogger("library").warning("cannot reach %s", "postgresql://me:hunter2@db/x")
try:
    raise ValueError(f"no key {token}")
except ValueError:
    structlog.get_logger("api").exception("it.broke")
"""


def test_secrets_are_redacted_in_every_logger():
    run = subprocess.run([sys.executable, "-c", SECRETS], capture_output=True, text=True)
    lines = [json.loads(line) for line in run.stderr.splitlines()]

    assert len(lines) == 3
    assert "hunter2" not in run.stderr
    assert "abab" not in run.stderr
    assert lines[0]["headers"] == {"authorization": "[hidden]"}
    assert "no key ps_00000000000000000000000000_[hidden]" in lines[2]["exception"]


def test_a_closed_log_stream_does_not_raise():
    script = SCRIPT + 'import sys; sys.stderr.close(); structlog.get_logger("api").info("lost"); print("went on")'
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "went on\n"


TEXT = """
import structlog
from core import tracing
from server.logs import configure_logging
configure_logging("worker", "info", FORMAT)
tracing.configure("worker", make_processor=lambda: SimpleSpanProcessor(InMemorySpanExporter()))
with tracing.span("job.attempt", parent="00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"):
    structlog.get_logger("w").info("job.claimed", job_id="job_1")
try:
    1 / 0
except ZeroDivisionError:
    structlog.get_logger("w").exception("it.broke")
"""
IMPORTS = """
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
"""


@pytest.mark.parametrize("line_format", ["json", "text"])
def test_lines_within_a_span_have_its_ids(line_format):
    script = f"{IMPORTS}FORMAT = {line_format!r}{TEXT}"
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    first, second, *traceback = run.stderr.splitlines()

    if line_format == "json":
        assert json.loads(first)["trace_id"] == "ab" * 16
        assert "trace_id" not in json.loads(second)
        assert traceback == []
    else:
        assert re.fullmatch(r"..:..:.. worker     job.claimed job_id=job_1 trace_id=(ab){16} span_id=\w{16}", first)
        assert second.endswith("worker     ERROR it.broke")
        assert "ZeroDivisionError" in traceback[-1]


def test_job_events_and_warnings_are_shown():
    event = b'{"event": "job.claimed", "level": "info", "job_id": "job_1", "timestamp": "2026-01-01T10:11:12.0Z"}'
    warning = b'{"event": "lease.lost", "level": "warning", "timestamp": "2026-01-01T10:11:12.0Z"}'

    assert format_line("worker", event) == "10:11:12 worker     job.claimed job_id=job_1"
    assert "WARNING lease.lost" in format_line("worker", warning)
    assert format_line("api", b'{"event": "http.request", "level": "info"}') is None


def test_lines_that_are_not_json_are_shown():
    assert format_line("worker", b"Segmentation fault") == "worker     Segmentation fault"
    assert format_line("worker", b"   ") is None
    assert format_line("valkey", b"Ready to accept connections") is None


def test_untrusted_text_is_escaped_in_log_lines():
    text = "x\x1b]52;c;ZXZpbA==\x07\nready http://evil"
    line = json.dumps({"event": "session.refused", "level": "warning", "client_address": text}).encode()

    for shown in (format_line("api", line), format_line("worker", b"TIFFOpen: \x1b[2J\rno such file")):
        assert shown.isprintable()
    assert r"client_address=x\x1b]52;c;ZXZpbA==\x07\nready http://evil" in format_line("api", line)
