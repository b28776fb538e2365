"""Requests per minute that a key may send, by rate class: token buckets in Valkey, shared by all API processes.

Each route declares its class with :func:`rate_class`. A process draws tokens in batches of one second's worth of the
limit and spends them locally, so a read costs no round trip. It keeps the tokens that it has not spent, so all
processes together may exceed a limit by one such batch each. Without Valkey no request is limited: the limits protect
the service's speed, not its data.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, get_args

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

_MAX_KEYS = 10_000  # per rate class and process
_RETRY_SECONDS = 1.0  # after a failure, Valkey is not asked for this long, so requests do not wait for it
_TIMEOUT_SECONDS = 0.25
_MINUTE = 60.0  # seconds

# A bucket holds one minute's worth of tokens and fills steadily. The script returns the number of tokens granted and
# the (fractional) number left. It reads Valkey's clock, so the clocks of the API processes do not matter.
_DRAW = """
local now = redis.call('TIME')
local at = now[1] + now[2] / 1000000
local limit, requested = tonumber(ARGV[1]), tonumber(ARGV[2])
local bucket = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = tonumber(bucket[1]) or limit
tokens = math.min(limit, tokens + math.max(0, at - (tonumber(bucket[2]) or at)) * limit / 60)
local granted = math.min(requested, math.floor(tokens))
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens - granted), 'at', string.format('%.6f', at))
redis.call('EXPIRE', KEYS[1], 61)
return {granted, tostring(tokens - granted)}
"""

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

_class_by_endpoint: dict[Callable[..., Any], RateClass] = {}

log = structlog.get_logger(__name__)


def rate_class(name: RateClass) -> Callable[[Endpoint], Endpoint]:
    """Declare the rate class of an endpoint: ``@rate_class("reads")`` below its ``@router.get(...)``."""

    def declare(endpoint: Endpoint) -> Endpoint:
        _class_by_endpoint[endpoint] = name
        return endpoint

    return declare


def declared_rate_class(endpoint: Callable[..., Any]) -> RateClass | None:
    """Return the rate class that an endpoint declares, or None."""
    return _class_by_endpoint.get(endpoint)


def request_rate_class(request: Request) -> RateClass:
    """Return the rate class of the matched endpoint. :mod:`api.route_checks` ensures that there is one."""
    return _class_by_endpoint[request.scope["endpoint"]]


class _LocalTokens:
    """Tokens of one key and class that this process has drawn. One request at a time draws more."""

    __slots__ = ("count", "lock")

    def __init__(self) -> None:
        self.count = 0
        self.lock = asyncio.Lock()


class RateLimiter:
    """Limits the requests of each key. All methods run in the app's event loop."""

    def __init__(self, settings: Settings) -> None:
        self.limits: Mapping[RateClass, int] = {
            "reads": settings.rate_reads_per_minute,
            "writes": settings.rate_writes_per_minute,
            "jobs": settings.rate_jobs_per_minute,
            "uploads": settings.rate_uploads_per_minute,
            "questions": settings.rate_inspector_per_minute,
        }
        self._url = settings.broker_url
        self._local: dict[RateClass, OrderedDict[str, _LocalTokens]] = {name: OrderedDict() for name in CLASSES}
        self._retry_at = 0.0
        self._client: redis.asyncio.Redis | None = None

    def try_spend(self, key_id: str, name: RateClass) -> bool:
        """Spend a token that this process has already drawn; return False if it has none (see :meth:`require`)."""
        if not self.limits[name]:
            return True
        tokens = self._local[name].get(key_id)
        if tokens is None or tokens.count < 1:
            return False
        tokens.count -= 1
        return True

    async def require(self, key_id: str, name: RateClass) -> None:
        """Spend a token for one request, drawing from Valkey if needed.

        Raises:
            RateLimited: the key has sent too many requests of this class.
        """
        if self.try_spend(key_id, name):
            return
        tokens = self._local_tokens(key_id, name)
        async with tokens.lock:
            if tokens.count < 1:
                limit = self.limits[name]
                tokens.count, left = await self._draw(key_id, name, limit)
                if tokens.count < 1:
                    raise _rate_limited(name, limit, seconds=(1 - left) * _MINUTE / limit)
            tokens.count -= 1

    async def aclose(self) -> None:
        """Close the connections; call it in the app's event loop."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def _local_tokens(self, key_id: str, name: RateClass) -> _LocalTokens:
        by_key = self._local[name]
        tokens = by_key.setdefault(key_id, _LocalTokens())
        by_key.move_to_end(key_id)
        while len(by_key) > _MAX_KEYS:
            by_key.popitem(last=False)
        return tokens

    async def _draw(self, key_id: str, name: RateClass, limit: int) -> tuple[int, float]:
        """Draw tokens from the shared bucket: the number granted and the number left.

        Grants the full batch if Valkey is unavailable.
        """
        batch = max(1, round(limit / _MINUTE)) if name == "reads" else 1
        if time.monotonic() < self._retry_at:
            return batch, 0.0
        try:
            granted, left = await self._valkey().eval(_DRAW, 1, f"potstill:rate:{name}:{key_id}", limit, batch)
        except (RedisError, OSError) as error:
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            log.warning("rate_limit.disabled", error=str(error), retry_seconds=_RETRY_SECONDS)
            return batch, 0.0
        return int(granted), float(left)

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


def _rate_limited(name: RateClass, limit: int, *, seconds: float) -> RateLimited:
    wait = max(1, math.ceil(seconds))
    requests = {
        "reads": "reads",
        "writes": "changes",
        "jobs": "new jobs",
        "uploads": "new datasets and models",
        "questions": "estimates and architecture searches",
    }[name]
    return RateLimited(
        f"This key is limited to {limit:,} {requests} a minute; try again in {wait} s.",
        extra={"retry_after_seconds": wait},
    )
