"""Authentication of requests: a bearer key, a token of the configured issuer, or the dashboard's signed cookie."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from fastapi import Request

from api.auth_throttle import AuthThrottle, client_address
from api.oidc import TokenVerifier, is_token
from api.session_cookie import COOKIE_NAME, SAFE_METHODS, is_same_origin, read_cookie
from core.errors import Forbidden, NotAuthenticated
from core.store import keys
from core.store.db import Database, DatabaseUnavailable
from core.store.keys import TOUCH_INTERVAL, Caller
from core.token_errors import TokenExpired

__all__ = ["Authenticator", "Caller"]


_CACHE_SIZE = 1024  # callers


class Authenticator:
    """Authenticates callers. Thread-safe; reads the database each time, so a revoked key fails at once."""

    def __init__(
        self,
        database: Database,
        cookie_secret: str,
        *,
        wrong_keys_per_minute: int = 0,
        verifier: TokenVerifier | None = None,
    ) -> None:
        self._database = database
        self._verifier = verifier
        self._cookie_secret = cookie_secret
        self._throttle = AuthThrottle(wrong_keys_per_minute)
        self._touched: dict[str, float] = {}  # key id -> monotonic time
        self._cache: OrderedDict[bytes, Caller] = OrderedDict()  # by digest of the Authorization header

    def cached_caller(self, request: Request) -> Caller | None:
        """Return the caller of an earlier request with the same header; the key may have been revoked since.

        For endpoints that check the key again in the transaction that reads their data, to save a query.
        """
        header = request.headers.get("authorization")
        caller = None if header is None else self._cache.get(_digest(header))
        return None if caller is None or self._needs_touch(caller) else caller

    def identify(self, request: Request) -> Caller:
        """Return the caller.

        Raises :class:`NotAuthenticated`, :class:`Forbidden` for a cross-site request, or :class:`RateLimited` if
        the address has sent too many wrong keys. A cached key is exempt from that limit.
        """
        header = request.headers.get("authorization")
        if header is None:
            caller = self._by_cookie(request)
        else:
            with self._throttled(request, exempt=_digest(header) in self._cache):
                caller = self._by_header(header)
        if caller.subject is not None:  # a token is verified by each request
            return caller
        self._touch(caller)
        if header is not None:
            self._cache[_digest(header)] = caller
            while len(self._cache) > _CACHE_SIZE:
                self._cache.popitem(last=False)
        return caller

    def sign_in(self, request: Request, token: str) -> Caller:
        """Return the caller of a key typed into a page. Raises :class:`NotAuthenticated`, :class:`RateLimited`."""
        with self._throttled(request), self._database.read() as session:
            return keys.authenticate(session, token)

    @contextmanager
    def _throttled(self, request: Request, *, exempt: bool = False) -> Iterator[None]:
        """Reject the address after too many wrong keys, and count a :class:`NotAuthenticated` of the block.

        A cached key is ``exempt`` from the limit until it fails.
        """
        address = client_address(request)
        if not exempt:
            self._throttle.check(address)
        try:
            yield
        except TokenExpired:
            raise  # not a guess: its signature is valid
        except NotAuthenticated:
            self._throttle.count(address)
            if exempt:
                self._cache.pop(_digest(request.headers["authorization"]), None)
            raise

    def _by_header(self, header: str) -> Caller:
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise NotAuthenticated("Send the key as `Authorization: Bearer ps_…`.")
        if self._verifier is not None and is_token(token.strip()):
            return self._verifier.identify(token.strip())
        with self._database.read() as session:
            return keys.authenticate(session, token.strip())

    def _by_cookie(self, request: Request) -> Caller:
        cookie = request.cookies.get(COOKIE_NAME)
        key_id = read_cookie(self._cookie_secret, cookie) if cookie else None
        if key_id is None:
            error = NotAuthenticated("An API key is required: send `Authorization: Bearer ps_…`, or sign in at /login.")
            if not cookie:
                raise error
            with self._throttled(request):
                raise error
        # Browsers send the cookie with requests from any site.
        if request.method not in SAFE_METHODS and not is_same_origin(request.headers):
            raise Forbidden("A request with the dashboard's cookie must come from the dashboard's own pages.")
        with self._database.read() as session:
            return keys.load_caller(session, key_id)

    def _touch(self, caller: Caller) -> None:
        """Record the use of a key at most once per interval; a write per request would cost too much."""
        if not self._needs_touch(caller):
            return
        self._touched[caller.key_id] = time.monotonic()
        # The time of the last use is not worth a failed request.
        with suppress(DatabaseUnavailable), self._database.write() as session:
            keys.touch(session, caller.key_id)

    def _needs_touch(self, caller: Caller) -> bool:
        return time.monotonic() - self._touched.get(caller.key_id, -1e9) >= TOUCH_INTERVAL.total_seconds()


def _digest(header: str) -> bytes:
    """Hash a header, so that no key stays in memory."""
    return hashlib.sha256(header.encode("latin-1", "replace")).digest()
