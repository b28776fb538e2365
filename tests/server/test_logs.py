"""Logs: JSON for machines, short lines for whoever watches."""

import json
import subprocess
import sys

from server.logs import short

SCRIPT = """
import logging, warnings, structlog
from server.logs import configure
configure("api", "info")
with structlog.contextvars.bound_contextvars(request_id="req_1"):
    structlog.get_logger("api").info("job.created", job_id="job_1")
    logging.getLogger("library").warning("said %s", "so")
structlog.get_logger("api").debug("too.much")
warnings.warn("old")
try:
    1 / 0
except ZeroDivisionError:
    structlog.get_logger("api").exception("it.broke")
"""


def test_every_line_is_one_json_object_whoever_logs_it():
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    lines = [json.loads(line) for line in run.stderr.splitlines()]

    assert [line["event"] for line in lines[:2]] == ["job.created", "said so"]
    assert all(line["role"] == "api" for line in lines)
    assert [line.get("request_id") for line in lines[:2]] == ["req_1", "req_1"]
    assert "old" in lines[2]["event"]
    assert "ZeroDivisionError" in lines[3]["exception"]
    assert len(lines) == 4


SECRETS = """
import logging, structlog
from server.logs import configure
configure("api", "info")
token = "ps_" + "0" * 26 + "_" + "ab" * 32
structlog.get_logger("api").info("http.request", path=f"/v1/jobs/{token}", headers={"authorization": "Bearer x"})
logging.getLogger("library").warning("cannot reach %s", "postgresql://me:hunter2@db/x")
try:
    raise ValueError(f"no key {token}")
except ValueError:
    structlog.get_logger("api").exception("it.broke")
"""


def test_secrets_are_hidden_whoever_logs_them():
    run = subprocess.run([sys.executable, "-c", SECRETS], capture_output=True, text=True)
    lines = [json.loads(line) for line in run.stderr.splitlines()]

    assert len(lines) == 3
    assert "hunter2" not in run.stderr
    assert "abab" not in run.stderr
    assert lines[0]["headers"] == {"authorization": "[hidden]"}
    assert "no key ps_00000000000000000000000000_[hidden]" in lines[2]["exception"]


def test_a_log_that_cannot_be_written_ends_nothing():
    script = SCRIPT + 'import sys; sys.stderr.close(); structlog.get_logger("api").info("lost"); print("went on")'
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "went on\n"


def test_a_person_sees_what_happens_to_jobs_and_what_goes_wrong():
    told = b'{"event": "job.claimed", "level": "info", "job_id": "job_1", "timestamp": "2026-01-01T10:11:12.0Z"}'
    trouble = b'{"event": "lease.lost", "level": "warning", "timestamp": "2026-01-01T10:11:12.0Z"}'

    assert short("worker", told) == "10:11:12 worker     job.claimed job_id=job_1"
    assert "WARNING lease.lost" in short("worker", trouble)
    assert short("api", b'{"event": "http.request", "level": "info"}') is None


def test_what_is_no_json_is_shown_as_it_is():
    assert short("worker", b"Segmentation fault") == "worker     Segmentation fault"
    assert short("worker", b"   ") is None
    assert short("valkey", b"Ready to accept connections") is None


def test_strangers_words_neither_command_the_terminal_nor_make_lines_of_their_own():
    words = "x\x1b]52;c;ZXZpbA==\x07\nready http://evil"
    line = json.dumps({"event": "session.refused", "level": "warning", "client_address": words}).encode()

    for told in (short("api", line), short("worker", b"TIFFOpen: \x1b[2J\rno such file")):
        assert told.isprintable()
    assert r"client_address=x\x1b]52;c;ZXZpbA==\x07\nready http://evil" in short("api", line)
