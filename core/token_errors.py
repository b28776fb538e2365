"""Errors of tokens of an OpenID Connect issuer."""

from __future__ import annotations

from core.errors import Forbidden, NotAuthenticated, Unavailable


class TokenInvalid(NotAuthenticated):
    """The token's form, signature, algorithm or a claim is not valid; the detail names which."""

    code = "token_invalid"
    title = "The token is not valid"


class TokenExpired(NotAuthenticated):
    """The token has expired; get a new one from its issuer."""

    code = "token_expired"
    title = "The token has expired"


class TokenWithoutProject(Forbidden):
    """The token is valid, but its claims name no project of this service, or several."""

    code = "token_without_project"
    title = "The token gives no access to a project"


class IssuerUnavailable(Unavailable):
    """The keys of the token issuer cannot be fetched; API keys still work."""

    code = "issuer_unavailable"
    title = "The token issuer is unavailable"
