"""Verification of JSON Web Tokens from an OpenID Connect issuer: signature, claims, and their meaning here.

The issuer's keys are fetched with the checked fetcher of :mod:`core.fetch` and cached. A token with an unknown key id
causes a new fetch, at most once per ``RETRY_SECONDS``: so a rotated key works at once, and forged key ids cannot cause
a flood of requests. Keys are also fetched again after ``MAX_AGE_SECONDS``, which removes withdrawn ones.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from joserfc import jwt
from joserfc.errors import (
    ExpiredTokenError,
    InvalidClaimError,
    InvalidKeyIdError,
    JoseError,
    MissingClaimError,
    UnsupportedAlgorithmError,
)
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from core.fetch.download import Downloader, DownloadLimits
from core.ids import ALPHABET, ID_CHARACTERS
from core.ingest_errors import DownloadFailed, DownloadTooLarge, UrlNotAllowed
from core.settings import Settings
from core.store import projects
from core.store.db import Database
from core.store.keys import SCOPES, Caller
from core.token_errors import IssuerUnavailable, TokenExpired, TokenInvalid, TokenWithoutProject

MAX_TOKEN_CHARACTERS = 8192
MAX_AGE_SECONDS = 3600.0
RETRY_SECONDS = 10.0
_MAX_KEYS_BYTES = 1024**2
_FETCH_SECONDS = 10.0
_MAX_SUBJECT_CHARACTERS = 255
_DISCOVERY = "/.well-known/openid-configuration"

log = structlog.get_logger(__name__)


def make_downloader(settings: Settings) -> Downloader:
    """Return the downloader of the issuer's documents."""
    limits = DownloadLimits(max_bytes=_MAX_KEYS_BYTES, seconds=_FETCH_SECONDS, idle_seconds=_FETCH_SECONDS)
    return Downloader(policy=settings.network_policy, limits=limits)


def is_token(text: str) -> bool:
    """Return whether a bearer credential has the form of a signed token, which no API key has."""
    return text.count(".") == 2


class IssuerKeys:
    """The issuer's public keys. Thread-safe."""

    def __init__(self, settings: Settings, downloader: Downloader, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._downloader = downloader
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: KeySet | None = None
        self._fetched_at = self._tried_at = -MAX_AGE_SECONDS

    def get(self, *, unknown_key: bool = False) -> KeySet:
        """Return the keys, fetched again if they are old or if a key was ``unknown_key``.

        Old keys are used while the issuer is unavailable. Raises :class:`IssuerUnavailable` without any keys.
        """
        with self._lock:
            now = self._clock()
            is_due = unknown_key or now - self._fetched_at >= MAX_AGE_SECONDS
            if is_due and now - self._tried_at >= RETRY_SECONDS:
                self._tried_at = now
                self._refresh(now)
            if self._keys is None:
                raise IssuerUnavailable(
                    f"The keys of {self._settings.oidc_issuer} cannot be fetched; try again soon, or use an API key."
                )
            return self._keys

    def _refresh(self, now: float) -> None:
        try:
            self._keys = KeySet.import_key_set(self._fetch(self._jwks_url()))  # type: ignore[arg-type]
            self._fetched_at = now
        except (DownloadFailed, DownloadTooLarge, UrlNotAllowed) as error:
            log.warning("oidc.keys_not_fetched", issuer=self._settings.oidc_issuer, error=error.detail)
        except (JoseError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("oidc.keys_not_readable", issuer=self._settings.oidc_issuer, error=str(error)[:200])

    def _jwks_url(self) -> str:
        issuer = self._settings.oidc_issuer
        if self._settings.oidc_jwks_url:
            return self._settings.oidc_jwks_url
        configuration = self._fetch(issuer.rstrip("/") + _DISCOVERY)
        if configuration["issuer"] != issuer:
            raise ValueError("the discovery document names another issuer")
        return str(configuration["jwks_uri"])

    def _fetch(self, url: str) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "document.json"
            self._downloader.save(url, path, check_head=lambda _head: None, on_chunk=lambda: None)
            return dict(json.loads(path.read_bytes()))


@dataclass(frozen=True, slots=True)
class _Identity:
    """What a verified token states."""

    subject: str
    claims: Mapping[str, Any]
    expires_at: datetime


class TokenVerifier:
    """Turns tokens into callers. Thread-safe."""

    def __init__(self, settings: Settings, database: Database, downloader: Downloader | None = None) -> None:
        self._settings = settings
        self._database = database
        self._keys = IssuerKeys(settings, downloader or make_downloader(settings))
        self._jws = JWSRegistry(
            algorithms=settings.oidc_algorithms, strict_check_header=False
        )  # RFC 7515: ignore others
        self._claims = jwt.JWTClaimsRegistry(
            leeway=settings.oidc_clock_skew_seconds,
            iss={"essential": True, "value": settings.oidc_issuer},
            aud={"essential": True, "values": list(settings.oidc_audience)},
            exp={"essential": True},
            sub={"essential": True},
        )

    def identify(self, token: str) -> Caller:
        """Verify a token and return its caller; its project is looked up in the database.

        Raises:
            TokenInvalid, TokenExpired: The token is not accepted.
            TokenWithoutProject: Its claims name no project.
            IssuerUnavailable: The issuer's keys are not known.
        """
        identity = self._verify(token)
        project_id = self._project(identity.claims)
        return Caller(
            key_id=subject_id(self._settings.oidc_issuer, identity.subject, project_id),
            project_id=project_id,
            scopes=self._scopes(identity.claims),
            subject=identity.subject,
            expires_at=identity.expires_at,
        )

    def _verify(self, token: str) -> _Identity:
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise TokenInvalid(f"The token is longer than {MAX_TOKEN_CHARACTERS:,} characters.")
        claims = self._decode(token)
        try:
            self._claims.validate(claims)
        except ExpiredTokenError:
            raise TokenExpired("The token has expired; get a new one from its issuer.") from None
        except MissingClaimError as error:
            raise TokenInvalid(f"The token lacks required claims: {error.description}") from None
        except InvalidClaimError as error:
            raise TokenInvalid(f"A claim of the token is not accepted: {error.description}") from None
        subject = claims["sub"]
        if len(subject) > _MAX_SUBJECT_CHARACTERS:
            raise TokenInvalid(f"The claim sub is longer than {_MAX_SUBJECT_CHARACTERS} characters.")
        try:
            expires_at = datetime.fromtimestamp(claims["exp"] + self._settings.oidc_clock_skew_seconds, UTC)
        except (OverflowError, ValueError, OSError):
            raise TokenInvalid("The claim exp is not a date.") from None
        return _Identity(subject, claims, expires_at)

    def _decode(self, token: str) -> dict[str, Any]:
        """Return the claims of a token with a valid signature. Raises :class:`TokenInvalid`."""
        try:
            try:
                return jwt.decode(token, self._keys.get(), registry=self._jws).claims
            except InvalidKeyIdError:
                return jwt.decode(token, self._keys.get(unknown_key=True), registry=self._jws).claims
        except UnsupportedAlgorithmError:
            raise TokenInvalid(
                f"The token's algorithm is not accepted; accepted: {', '.join(self._settings.oidc_algorithms)}."
            ) from None
        except InvalidKeyIdError:
            raise TokenInvalid("The token is signed with a key that its issuer does not publish.") from None
        except (JoseError, ValueError, TypeError) as error:
            reason = error.error if isinstance(error, JoseError) else "not readable"
            raise TokenInvalid(f"The token's signature or form is not valid ({reason}).") from None

    def _project(self, claims: Mapping[str, Any]) -> str:
        """Return the id of the project that the claims name. Raises :class:`TokenWithoutProject`."""
        names = _values(_claim(claims, self._settings.oidc_project_claim), separator=None)
        if self._settings.oidc_projects:
            names = [target for name in names if (target := self._settings.oidc_projects.get(name)) is not None]
        with self._database.read() as session:
            found = projects.find(session, names)
        if len(found) == 1:
            return found[0]
        problem = "names no project" if not found else "names several projects"
        raise TokenWithoutProject(
            f"The claim {self._settings.oidc_project_claim} of the token {problem} of this service. It holds the id or "
            "the unique name of one, or a value of POTSTILL_OIDC_PROJECTS."
        )

    def _scopes(self, claims: Mapping[str, Any]) -> frozenset[str]:
        names = _values(_claim(claims, self._settings.oidc_scope_claim), separator=" ")
        mapping = self._settings.oidc_scopes or {scope: scope for scope in SCOPES}
        return frozenset(mapping[name] for name in names if name in mapping)


def subject_id(issuer: str, subject: str, project_id: str) -> str:
    """Return the id under which rate limits and the audit log know a subject in a project."""
    number = int.from_bytes(hashlib.sha256(f"{issuer}\n{subject}\n{project_id}".encode()).digest())
    return "sub_" + "".join(ALPHABET[(number >> 5 * index) & 31] for index in range(ID_CHARACTERS))


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """Return a claim by its name, or by a path such as ``realm_access.roles``; None without one."""
    if name in claims:
        return claims[name]
    value: Any = claims
    for part in name.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


def _values(claim: Any, *, separator: str | None) -> list[str]:
    if isinstance(claim, str):
        return [claim] if separator is None else claim.split(separator)
    return [value for value in claim if isinstance(value, str)] if isinstance(claim, list) else []
