"""Multipart forms with a file: streamed to disk, rejected at the first invalid byte."""

import io
import os
import socket
import tarfile
import time
import tracemalloc

import anyio
import pytest
from fastapi import Request

from api.multipart import FormRules, receive_form
from api.sniffing import require_archive, require_weights
from core.errors import InvalidRequest, MalformedRequest, PayloadTooLarge, Unavailable, UnsupportedMedia

HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.zip"\r\n\r\n'
ZIP = b"PK\x03\x04" + b"z" * 100


def tar(compression=""):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w:{compression}") as archive:
        archive.addfile(tarfile.TarInfo("a"), io.BytesIO())
    return out.getvalue()


def receive(tmp_path, *chunks, sniff=require_archive, max_bytes=10_000, content_type="multipart/form-data; boundary=b"):
    """Receive a form and return it with the file's content; check that the scratch directory is empty afterwards."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.request", "body": b"", "more_body": False})
    remaining = iter(messages)

    async def next_message():
        return next(remaining)

    async def run():
        scope = {"type": "http", "method": "POST", "headers": [(b"content-type", content_type.encode())]}
        rules = FormRules(frozenset({"name", "about"}), max_bytes, sniff)
        async with receive_form(Request(scope, next_message), rules, tmp_path / "scratch") as form:
            content = await anyio.Path(form.file.path).read_bytes()
            return form, content

    try:
        return anyio.run(run)
    finally:
        assert list((tmp_path / "scratch").iterdir()) == []


def test_fields_and_file_arrive_in_any_order_and_chunking(tmp_path):
    body = HEAD + ZIP + b'\r\n--b\r\nContent-Disposition: form-data; name="name"\r\n\r\n\xc3\xa4\r\n--b--\r\n'
    for size in (1, 7, len(body)):
        form, content = receive(tmp_path, *(body[k : k + size] for k in range(0, len(body), size)))
        assert (form.fields, form.file.filename, content) == ({"name": "ä"}, "x.zip", ZIP)
        assert form.file.size_bytes == len(ZIP)


END = b"\r\n--b--\r\n"
FIELD = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        (b"", MalformedRequest, "ends before"),
        (b"nonsense", MalformedRequest, "cannot be read"),
        (HEAD + ZIP, MalformedRequest, "ends before"),
        (HEAD + b"\r\n--b--\r\n", InvalidRequest, "empty"),
        (FIELD % (b"name", b"x") + b"--b--\r\n", InvalidRequest, "missing"),
        (FIELD % (b"nmae", b"x") + HEAD + ZIP + END, InvalidRequest, "name"),
        (FIELD % (b"name", b"x") + FIELD % (b"name", b"y") + HEAD + ZIP + END, InvalidRequest, "twice"),
        (HEAD + ZIP + b"\r\n" + HEAD + ZIP + END, InvalidRequest, "twice"),
        (FIELD % (b"name", b"\xff") + HEAD + ZIP + END, MalformedRequest, "UTF-8"),
        (FIELD % (b"name", b"a\0b") + HEAD + ZIP + END, MalformedRequest, "NUL"),
        (FIELD % (b"name", b"x" * 2_000_000) + HEAD + ZIP + END, PayloadTooLarge, "/name"),
        (b"--b\r\nContent-Type: x\r\n\r\nx" + END, MalformedRequest, "no name"),
        (b"--b\r\n" + b"X: y\r\n" * 10_000, MalformedRequest, "header"),
        (b"--b\r\nX: " + b"x" * 100_000, MalformedRequest, "header size exceeded"),
        (HEAD + ZIP + b"x" * 20_000 + END, PayloadTooLarge, "10,000"),
        (HEAD + b"hello" + END, UnsupportedMedia, "not a zip, a tar"),
    ],
)
def test_an_invalid_form_is_rejected(tmp_path, body, error, words):
    with pytest.raises(error, match=words) as caught:
        receive(tmp_path, body)

    assert caught.value.status < 500


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=", "text/plain", ""])
def test_a_form_without_a_boundary_is_rejected(tmp_path, kind):
    (tmp_path / "scratch").mkdir()
    with pytest.raises((MalformedRequest, UnsupportedMedia)):
        receive(tmp_path, b"x", content_type=kind)


@pytest.mark.parametrize(
    "head",
    [b"PK\x03\x04....", tar(), tar("gz"), tar("bz2"), tar("xz"), b"PK\x05\x06" + b"\0" * 18, b"PAR1...."],
    ids=["zip", "tar", "tar.gz", "tar.bz2", "tar.xz", "empty zip", "parquet"],
)
def test_archives_are_recognized_by_their_first_bytes(head):
    require_archive(head[:1024])


@pytest.mark.parametrize(
    "head", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"<html>", b"\0" * 1024, b"x" * 1024, b"\x80\x04\x95"]
)
def test_other_files_are_not_archives(head):
    with pytest.raises(UnsupportedMedia):
        require_archive(head)


@pytest.mark.parametrize(
    "head",
    [b"", b"\x80\x04\x95" + b"0" * 64, b"PK\x03\x04" + b"x" * 60, (2**62).to_bytes(8, "little") + b"{", b"{}" * 20],
)
def test_other_files_are_not_safetensors(head):
    with pytest.raises(UnsupportedMedia, match="safetensors"):
        require_weights(head)


def test_a_wrong_file_is_rejected_before_it_is_complete(server, tenant):
    """The request announces a gigabyte; the response arrives after a kilobyte."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(
            b"POST /v1/datasets HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + tenant.token.encode() + b"\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000000000\r\n\r\n" + HEAD + b"no" * 600
        )
        response = connection.recv(4096)

    assert response.startswith(b"HTTP/1.1 415")
    assert b"problem+json" in response


def test_an_upload_without_a_key_is_rejected_before_its_body(server):
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(
            b"POST /v1/datasets HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            b"Content-Length: 1000000000\r\nExpect: 100-continue\r\n\r\n"
        )
        response = connection.recv(4096)

    assert response.startswith(b"HTTP/1.1 401")


def test_a_large_file_is_streamed_to_disk(tmp_path):
    block = os.urandom(256 * 1024)
    chunks = [HEAD + b"PK\x03\x04", *([block] * 256), END]  # 64 MB
    tracemalloc.start()
    try:
        form, peak = _receive_with_peak_memory(tmp_path, chunks)
    finally:
        tracemalloc.stop()

    assert form.file.size_bytes == 4 + 256 * len(block)
    assert peak < 16 * 1024 * 1024


def _receive_with_peak_memory(tmp_path, chunks):
    async def run():
        remaining = iter(chunks)

        async def next_message():
            chunk = next(remaining, None)
            return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

        scope = {
            "type": "http",
            "method": "POST",
            "headers": [(b"content-type", b"multipart/form-data; boundary=b")],
        }
        rules = FormRules(frozenset(), 10**9, require_archive)
        async with receive_form(Request(scope, next_message), rules, tmp_path) as form:
            return form, tracemalloc.get_traced_memory()[1]

    return anyio.run(run)


def test_an_interrupted_upload_leaves_no_files(server, tenant):
    host, port = server.url.removeprefix("http://").split(":")
    incoming = server.settings.home / "incoming"
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(
            b"POST /v1/datasets HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + tenant.token.encode() + b"\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000000\r\n\r\n" + HEAD + ZIP
        )
        deadline = time.monotonic() + 5
        while not (incoming.exists() and any(incoming.iterdir())) and time.monotonic() < deadline:
            time.sleep(0.01)
    deadline = time.monotonic() + 5
    while any(incoming.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)

    assert list(incoming.iterdir()) == []
    assert tenant.http.get("/v1/datasets").json()["data"] == []


@pytest.fixture
def full_disk(make_disk):
    """A scratch directory on a full disk."""
    filler = make_disk("4k", "scratch") / "filler"
    filler.write_bytes(b"x" * 4096)
    return filler


def test_a_full_disk_at_the_last_byte_is_unavailable(tmp_path, full_disk):
    """The file fits into the buffer, so the disk error occurs when the file is closed."""

    async def run():
        body = [{"type": "http.request", "body": HEAD + ZIP + b"\r\n--b--\r\n", "more_body": False}]

        async def next_message():
            return body.pop()

        headers = [(b"content-type", b"multipart/form-data; boundary=b")]
        scope = {"type": "http", "method": "POST", "headers": headers}
        rules = FormRules(frozenset(), 10_000, require_archive)
        async with receive_form(Request(scope, next_message), rules, tmp_path / "scratch"):
            raise AssertionError("the disk is full")

    with pytest.raises(Unavailable, match="cannot be stored now"):
        anyio.run(run)

    assert list((tmp_path / "scratch").iterdir()) == [full_disk]
