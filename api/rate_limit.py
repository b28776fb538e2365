"""How much a key may ask in a minute, by class of route: token buckets in Valkey, shared by all API processes.

A process draws tokens in batches and spends them by itself, so a read costs no round trip: a batch is one second's
worth of the limit. What it has drawn and not spent it keeps, so all processes together may go beyond a limit by one
such second each. Without Valkey everything is let through: a limit protects the service's speed, not its data.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Literal, get_args

import redis.asyncio
import structlog
from fastapi import Request
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from core.errors import RateLimited
from core.settings import Settings

RateClass = Literal["reads", "writes", "jobs", "uploads", "questions"]
CLASSES: tuple[RateClass, ...] = get_args(RateClass)

# By the endpoint's name; every other one is among the reads if it is safe, else among the writes.
CLASS_OF: Mapping[str, RateClass] = {
    "create_job": "jobs",
    "create_dataset": "uploads",
    "add_dataset": "uploads",
    "create_model": "uploads",
    "estimate_job": "questions",
    "list_architectures": "questions",
}
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_REMEMBERED = 10_000  # keys, of each class
_AWAY_SECONDS = 1.0  # after a failure Valkey is left alone for so long instead of each request waiting for it
_TIMEOUT_SECONDS = 0.25
_MINUTE = 60.0  # seconds

# A bucket holds a minute's worth and fills steadily. It gives what it has of the tokens that are wanted; where it
# has none, it says how many there are (a fraction). Valkey's own clock counts, so that of no API process matters.
_DRAW = """
local now = redis.call('TIME')
local at = now[1] + now[2] / 1000000
local limit, wanted = tonumber(ARGV[1]), tonumber(ARGV[2])
local kept = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = tonumber(kept[1]) or limit
tokens = math.min(limit, tokens + math.max(0, at - (tonumber(kept[2]) or at)) * limit / 60)
local given = math.min(wanted, math.floor(tokens))
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens - given), 'at', string.format('%.6f', at))
redis.call('EXPIRE', KEYS[1], 61)
return {given, tostring(tokens - given)}
"""

log = structlog.get_logger(__name__)


class _Stock:
    """Tokens of one key and class that this process has drawn; one request at a time draws more."""

    __slots__ = ("drawing", "tokens")

    def __init__(self) -> None:
        self.tokens = 0
        self.drawing = asyncio.Lock()


class Rates:
    """The limits on keys. Everything is called in the app's loop."""

    def __init__(self, settings: Settings) -> None:
        self.limits: Mapping[RateClass, int] = {
            "reads": settings.rate_reads_per_minute,
            "writes": settings.rate_writes_per_minute,
            "jobs": settings.rate_jobs_per_minute,
            "uploads": settings.rate_uploads_per_minute,
            "questions": settings.rate_inspector_per_minute,
        }
        self._url = settings.broker_url
        self._stocks: dict[RateClass, OrderedDict[str, _Stock]] = {kind: OrderedDict() for kind in CLASSES}
        self._away_until = 0.0
        self._client: redis.asyncio.Redis | None = None

    def spend(self, key_id: str, kind: RateClass) -> bool:
        """Count a request against what this process has drawn; False where it must draw (:meth:`require`)."""
        if not self.limits[kind]:
            return True
        stock = self._stocks[kind].get(key_id)
        if stock is None or stock.tokens < 1:
            return False
        stock.tokens -= 1
        return True

    async def require(self, key_id: str, kind: RateClass) -> None:
        """Count a request. Raises :class:`RateLimited` where the key has sent too many of this class."""
        if self.spend(key_id, kind):
            return
        stock = self._stock(key_id, kind)
        async with stock.drawing:
            if stock.tokens < 1:
                limit = self.limits[kind]
                stock.tokens, left = await self._draw(key_id, kind, limit)
                if stock.tokens < 1:
                    raise _too_many(kind, limit, seconds=(1 - left) * _MINUTE / limit)
            stock.tokens -= 1

    async def aclose(self) -> None:
        """Close the connections; call it in the app's loop."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def _stock(self, key_id: str, kind: RateClass) -> _Stock:
        stocks = self._stocks[kind]
        stock = stocks.setdefault(key_id, _Stock())
        stocks.move_to_end(key_id)
        while len(stocks) > _REMEMBERED:
            stocks.popitem(last=False)
        return stock

    async def _draw(self, key_id: str, kind: RateClass, limit: int) -> tuple[int, float]:
        """Tokens from the shared bucket, and what it has left; as many as wanted where it cannot be reached."""
        wanted = max(1, round(limit / _MINUTE)) if kind == "reads" else 1
        if time.monotonic() < self._away_until:
            return wanted, 0.0
        try:
            given, left = await self._valkey().eval(_DRAW, 1, f"potstill:rate:{kind}:{key_id}", limit, wanted)
        except (RedisError, OSError) as error:
            self._away_until = time.monotonic() + _AWAY_SECONDS
            log.warning("rates.not_limited", error=str(error))
            return wanted, 0.0
        return int(given), float(left)

    def _valkey(self) -> redis.asyncio.Redis:
        if self._client is None:
            self._client = redis.asyncio.Redis.from_url(
                self._url,
                socket_timeout=_TIMEOUT_SECONDS,
                socket_connect_timeout=_TIMEOUT_SECONDS,
                retry=Retry(NoBackoff(), 0),
                decode_responses=True,
            )
        return self._client


def class_of(request: Request) -> RateClass:
    """Which limit a request counts against."""
    named = CLASS_OF.get(request.scope["endpoint"].__name__)
    if named is not None:
        return named
    return "reads" if request.method in SAFE_METHODS else "writes"


def _too_many(kind: RateClass, limit: int, *, seconds: float) -> RateLimited:
    wait = max(1, math.ceil(seconds))
    what = {
        "reads": "reads",
        "writes": "changes",
        "jobs": "new jobs",
        "uploads": "new datasets and models",
        "questions": "questions to the inspector",
    }[kind]
    return RateLimited(
        f"This key may ask for {limit:,} {what} a minute and has asked for more; try again in {wait} s.",
        extra={"retry_after_seconds": wait},
    )
