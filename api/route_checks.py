"""Start-up checks: each route declares its rate class and its request body where it is defined."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi.routing import RouteContext, iter_route_contexts
from starlette.routing import BaseRoute

from api.deps import CALLER_DEPENDENCIES
from api.rate_limit import CLASSES, declared_rate_class
from api.references import REFERENCE_DEPENDENCIES
from api.request_body import declared_body

_BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})


def check_routes(routes: Sequence[BaseRoute]) -> None:
    """Check the declarations of all routes.

    Raises:
        RuntimeError: a route below ``/v1``, or another one that takes a caller, declares no rate class; a route
            below ``/v1`` whose method has a body declares none; or a route takes a reference before its caller. The
            message names the route and the fix.
    """
    for route in iter_route_contexts(routes):
        endpoint, path = route.endpoint, route.path or ""
        if endpoint is None or not (path.startswith("/v1/") or _takes_caller(route)):
            continue
        methods = route.methods or set()
        name = f"{'/'.join(sorted(methods))} {path} ({endpoint.__name__})"
        if declared_rate_class(endpoint) is None:
            raise RuntimeError(
                f"{name} declares no rate class; decorate the endpoint with @rate_class(...), "
                f"one of {', '.join(CLASSES)}."
            )
        if _takes_reference_first(route):
            raise RuntimeError(
                f"{name} takes a DatasetId, ModelId or JobId before its caller; put the Reader, Writer or Admin "
                "parameter first."
            )
        if path.startswith("/v1/") and methods & _BODY_METHODS and declared_body(endpoint) is None:
            raise RuntimeError(
                f"{name} declares no request body; decorate the endpoint with @json_body(Model), @form_body(...) "
                "or @no_body."
            )


def _takes_reference_first(route: RouteContext) -> bool:
    """Whether a dependency that finds an object of the caller's project runs before the one that finds the caller."""
    dependant = getattr(route, "dependant", None)
    calls = [each.call for each in dependant.dependencies] if dependant is not None else []
    callers = [index for index, call in enumerate(calls) if call in CALLER_DEPENDENCIES]
    references = [index for index, call in enumerate(calls) if call in REFERENCE_DEPENDENCIES]
    return bool(references) and (not callers or references[0] < callers[0])


def _takes_caller(route: RouteContext) -> bool:
    dependant = getattr(route, "dependant", None)
    return dependant is not None and any(each.call in CALLER_DEPENDENCIES for each in dependant.dependencies)
