"""Types of settings that environment variables hold as text: lists and pairs, separated by commas."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _split_pairs(value: Any) -> Any:
    """Split a list of `name=value`. A name may contain `=`."""
    if not isinstance(value, str):
        return value
    pairs = [part.rpartition("=") for part in _split(value)]
    if not all(name and target for name, _, target in pairs):
        raise ValueError("write `name=value`, separated by commas")
    return {name.strip(): target.strip() for name, _, target in pairs}


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Ports = Annotated[tuple[Annotated[int, Field(ge=1, le=65535)], ...], NoDecode, BeforeValidator(_split)]
Pairs = Annotated[dict[str, str], NoDecode, BeforeValidator(_split_pairs)]

Origin = Annotated[str, Field(pattern=r"^(\*|https?://[a-z0-9.\[\]:-]+)$")]  # as browsers send it: no path
Origins = Annotated[tuple[Origin, ...], NoDecode, BeforeValidator(_split)]

# Signature algorithms with a public key. With a shared secret (HS256), anyone who knows the public key could sign.
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA"]
Algorithms = Annotated[tuple[Algorithm, ...], NoDecode, BeforeValidator(_split), Field(min_length=1)]


class MlflowSettings(BaseModel):
    """Settings of the MLflow server to which jobs are reported."""

    mlflow_tracking_uri: str = Field(
        default="",
        description="Address of an MLflow server, `https://…` or `http://…`, to which the scheduler reports every job "
        "that starts: parameters, metrics, files and the student as a model version. Empty: none.",
    )
    mlflow_experiment: str = Field(
        default="potstill",
        min_length=1,
        description="Experiment of the runs. A job overrides it by `mlflow.experiment` in its metadata.",
    )
    mlflow_registered_model: str = Field(
        default="",
        description="Registered model to which students are added as versions. A job overrides it by "
        "`mlflow.registered_model` in its metadata. Empty: the job's name, or else `potstill`.",
    )
    mlflow_token: SecretStr = Field(
        default=SecretStr(""),
        description="Bearer token of the MLflow server, or `user:password` for basic authentication. Empty: none.",
    )
    mlflow_timeout_seconds: float = Field(
        default=30.0, gt=0, description="Longest time for one request to the MLflow server, without files."
    )
