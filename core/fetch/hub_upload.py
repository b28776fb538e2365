"""Push files to a model repository of the Hugging Face hub, with the hub's own client over checked connections.

The client skips the files that the repository has, and makes no commit if nothing differs. So a push that was
interrupted, or is repeated, uploads only what is missing. Uploads use the LFS protocol: the other one, Xet, opens
connections of its own, which could not be checked.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import httpcore

from core.fetch.connection import CONNECT_SECONDS, CheckedBackend, Connector, Deadline, Resolver, connect, resolve
from core.fetch.targets import NetworkPolicy, parse_target
from core.ingest_errors import DownloadFailed, UrlNotAllowed
from core.outbound_errors import OutboundFailed, PushRejected, PushUnauthorized, PushUnavailable
from core.redaction import redact

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub import HfApi

CARD = "README.md"
FOLDER_REFERENCE = "local-dir:PATH_OF_THIS_FOLDER"  # of the model card
REQUEST_SECONDS = 3600.0  # longest time for one file
_IDLE_SECONDS = 60.0
_MAX_RESPONSE_BYTES = 16 * 1024**2
_TEMPORARY_STATUSES = frozenset({408, 409, 412, 425, 429})  # 409 and 412: another commit came first
_MAX_MESSAGE_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Pushed:
    """The commit that has the files, and its address."""

    commit: str
    url: str


@dataclass(slots=True, kw_only=True)
class HubUploader:
    """Pushes files; thread-safe. Tests replace ``resolver`` and ``connector``.

    One object per process: the hub's client is configured for all of it.
    """

    endpoint: str
    policy: NetworkPolicy
    resolver: Resolver = resolve
    connector: Connector = connect
    make_ssl_context: Callable[[], ssl.SSLContext] = ssl.create_default_context
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _is_configured: bool = field(default=False, init=False)

    def push(
        self,
        repo: str,
        files: Mapping[str, Path],
        *,
        token: str,
        revision: str,
        private: bool,
        license: str | None,  # noqa: A002 - the word of the card
        message: str,
    ) -> Pushed:
        """Create the repository if it does not exist, and commit the files that differ.

        ``private`` is the visibility of a new repository; an existing one keeps its own. Raises
        :class:`PushUnauthorized`, :class:`PushRejected`, :class:`PushUnavailable`.
        """
        api = self._api(token)
        try:
            return self._push(api, repo, files, revision, message, private=private, license=license)
        except Exception as error:  # noqa: BLE001 - of a library, whose threads wrap exceptions
            raise self._translate(error) from None  # the cause may quote headers with the token

    def _push(
        self,
        api: HfApi,
        repo: str,
        files: Mapping[str, Path],
        revision: str,
        message: str,
        *,
        private: bool,
        license: str | None,  # noqa: A002
    ) -> Pushed:
        from huggingface_hub import CommitOperationAdd

        name = api.create_repo(repo, private=private, exist_ok=True).repo_id
        if revision != "main":
            api.create_branch(name, branch=revision, exist_ok=True)
        operations = [
            CommitOperationAdd(path, _card(file.read_text("utf-8"), name, license) if path == CARD else file)
            for path, file in sorted(files.items())
        ]
        commit = api.create_commit(name, operations, commit_message=message, revision=revision)
        return Pushed(str(commit.oid), str(commit.commit_url))

    def _api(self, token: str) -> HfApi:
        """Return the hub's client for one token; the first call imports and configures it."""
        import huggingface_hub
        from huggingface_hub import constants
        from huggingface_hub.utils.tqdm import disable_progress_bars

        with self._lock:
            if not self._is_configured:
                constants.HF_HUB_DISABLE_XET = True
                disable_progress_bars()
                huggingface_hub.set_client_factory(self._make_client)
                self._is_configured = True
        return huggingface_hub.HfApi(endpoint=self.endpoint.rstrip("/"), token=token, library_name="potstill")

    def _make_client(self) -> httpx2.Client:
        import httpx2

        # Redirects pass the transport, which checks each address; the client drops the token for another host.
        transport = _make_transport(self)
        return httpx2.Client(transport=transport, follow_redirects=True, timeout=None, trust_env=False)

    def _translate(self, error: BaseException) -> OutboundFailed:
        """Return the error for an exception of the hub's client, which wraps those of its threads."""
        from huggingface_hub.errors import HfHubHTTPError

        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OutboundFailed | HfHubHTTPError):
            cause = cause.__cause__
        if isinstance(cause, OutboundFailed):
            return cause
        text = str(error) if cause is None else str(getattr(cause, "server_message", None) or cause)
        message = redact(" ".join(text.split()))[:_MAX_MESSAGE_CHARACTERS]
        if not isinstance(cause, HfHubHTTPError):
            return PushRejected(f"The hub's client ended with {type(error).__name__}: {message}")
        status = cause.response.status_code
        detail = f"The hub answered {status}: {message}"
        if status in {401, 403}:
            return PushUnauthorized(f"{detail}. Push again with a token that may write to this repository.")
        if status in _TEMPORARY_STATUSES or status >= 500:
            return PushUnavailable(detail)
        return PushRejected(detail)


def _card(text: str, repo: str, license: str | None) -> bytes:  # noqa: A002
    """Return the model card for a repository: its example loads the model from there."""
    from huggingface_hub import ModelCard

    card = ModelCard(text.replace(FOLDER_REFERENCE, f"hf-hub:{repo}"), ignore_metadata_errors=True)
    if license is not None:
        card.data["license"] = license
    return str(card).encode()


def _make_transport(uploader: HubUploader) -> httpx2.BaseTransport:
    """Return a transport that connects to checked addresses only."""
    import httpx2

    class CheckedTransport(httpx2.BaseTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            """Send a request; an overload or an outage ends the push, and the scheduler repeats it."""
            try:
                status, headers, body = _exchange(uploader, request)
            except UrlNotAllowed as error:
                raise PushRejected(f"The hub's address is not allowed: {error.detail}") from None
            except DownloadFailed as error:
                raise PushUnavailable(error.detail) from None
            except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError) as error:
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                raise PushUnavailable(f"{request.url.host} could not be reached: {reason}") from None
            if status >= 500 or status == 429:
                raise PushUnavailable(f"{request.url.host} answered {status}")
            return httpx2.Response(status, headers=headers, content=body, request=request)

    return CheckedTransport()


def _exchange(uploader: HubUploader, request: httpx2.Request) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    target = parse_target(str(request.url), uploader.policy)
    backend = CheckedBackend(
        uploader.policy, Deadline(REQUEST_SECONDS), resolver=uploader.resolver, connector=uploader.connector
    )
    timeouts = {"connect": CONNECT_SECONDS, "read": _IDLE_SECONDS, "write": _IDLE_SECONDS, "pool": _IDLE_SECONDS}
    headers = [(name, value) for name, value in request.headers.raw if name.lower() != b"accept-encoding"]
    outgoing = httpcore.Request(
        request.method,
        httpcore.URL(scheme=b"https", host=target.host, port=target.port, target=target.path),
        headers=[*headers, (b"Accept-Encoding", b"identity")],
        content=cast("Iterator[bytes]", request.stream),
        extensions={"timeout": timeouts},
    )
    ssl_context = uploader.make_ssl_context()
    with httpcore.ConnectionPool(ssl_context=ssl_context, network_backend=backend, max_connections=1) as pool:
        response = pool.handle_request(outgoing)
        try:
            return response.status, response.headers, _read(response)
        finally:
            response.close()


def _read(response: httpcore.Response) -> bytes:
    content = bytearray()
    for chunk in response.iter_stream():
        content += chunk
        if len(content) > _MAX_RESPONSE_BYTES:
            raise DownloadFailed(f"the hub answered with more than {_MAX_RESPONSE_BYTES:,} bytes")
    return bytes(content)
