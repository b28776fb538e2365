"""Who sends a request: a bearer key, or the dashboard's signed cookie."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from fastapi import Request

from api.auth_throttle import AuthThrottle, client_address
from api.session_cookie import COOKIE_NAME, SAFE_METHODS, is_same_origin, read_cookie
from core.errors import Forbidden, NotAuthenticated
from core.store import keys
from core.store.db import Database, DatabaseUnavailable
from core.store.keys import TOUCH_EVERY, Caller

__all__ = ["Authenticator", "Caller"]


_REMEMBERED = 1024


class Authenticator:
    """Knows callers by what they send. Thread-safe; asks the database each time, so a revoked key ends at once."""

    def __init__(self, database: Database, cookie_secret: str, *, wrong_keys_per_minute: int = 0) -> None:
        self._database = database
        self._cookie_secret = cookie_secret
        self._guesses = AuthThrottle(wrong_keys_per_minute)
        self._touched: dict[str, float] = {}  # key id -> monotonic time
        self._known: OrderedDict[bytes, Caller] = OrderedDict()  # by the digest of the header

    def recall(self, request: Request) -> Caller | None:
        """Whom :meth:`identify` found by the same header before; by now the key may be revoked or too old.

        For what reads on the caller's behalf with :func:`core.store.keys.in_force`, and so asks once, not twice.
        """
        header = request.headers.get("authorization")
        who = None if header is None else self._known.get(_digest(header))
        return None if who is None or self._is_to_touch(who) else who

    def identify(self, request: Request) -> Caller:
        """The caller.

        Raises :class:`NotAuthenticated`, :class:`Forbidden` for a request forged across sites, or
        :class:`RateLimited` where its address has sent too many wrong keys; a key that was right before is not
        held up by those of its neighbours.
        """
        header = request.headers.get("authorization")
        if header is None:
            who = self._by_cookie(request)
        else:
            was_right = _digest(header) in self._known
            with self._guess(request, trusted=was_right):
                who = self._by_header(header)
        self._touch(who)
        if header is not None:
            self._known[_digest(header)] = who
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return who

    def sign_in(self, request: Request, token: str) -> Caller:
        """Whom a key that was typed into a page belongs to. Raises :class:`NotAuthenticated`, :class:`RateLimited`."""
        with self._guess(request), self._database.read() as session:
            return keys.authenticate(session, token)

    @contextmanager
    def _guess(self, request: Request, *, trusted: bool = False) -> Iterator[None]:
        """Something that may be a guess is looked at: counted if it was wrong, and not looked at after too many.

        What was right before is ``trusted`` to be looked at, until it is wrong.
        """
        address = client_address(request)
        if not trusted:
            self._guesses.check(address)
        try:
            yield
        except NotAuthenticated:
            self._guesses.count(address)
            if trusted:
                self._known.pop(_digest(request.headers["authorization"]), None)
            raise

    def _by_header(self, header: str) -> Caller:
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise NotAuthenticated("Send the key as `Authorization: Bearer ps_…`.")
        with self._database.read() as session:
            return keys.authenticate(session, token.strip())

    def _by_cookie(self, request: Request) -> Caller:
        cookie = request.cookies.get(COOKIE_NAME)
        key_id = read_cookie(self._cookie_secret, cookie) if cookie else None
        if key_id is None:
            refusal = NotAuthenticated("A key is needed: send `Authorization: Bearer ps_…`, or sign in at /login.")
            if not cookie:
                raise refusal
            with self._guess(request):
                raise refusal
        # A browser sends the cookie whoever's page asks it to.
        if request.method not in SAFE_METHODS and not is_same_origin(request.headers):
            raise Forbidden("A request with the dashboard's cookie must come from the dashboard's own pages.")
        with self._database.read() as session:
            return keys.caller_of(session, key_id)

    def _touch(self, who: Caller) -> None:
        """Remember the use of a key, now and then: a write a request would be too dear."""
        if not self._is_to_touch(who):
            return
        self._touched[who.key_id] = time.monotonic()
        # When a key was last used is not worth failing for.
        with suppress(DatabaseUnavailable), self._database.write() as session:
            keys.touch(session, who.key_id)

    def _is_to_touch(self, who: Caller) -> bool:
        return time.monotonic() - self._touched.get(who.key_id, -1e9) >= TOUCH_EVERY.total_seconds()


def _digest(header: str) -> bytes:
    """A key is kept by nobody, not even in memory."""
    return hashlib.sha256(header.encode("latin-1", "replace")).digest()
