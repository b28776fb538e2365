"""Settings of all processes, read from environment variables ``POTSTILL_*``.

Only ``api``, ``worker``, ``server`` and the store read settings. The engine is a library and takes plain arguments.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from core.fetch.targets import HTTPS_PORT, NetworkPolicy
from core.setting_types import Algorithms, MlflowSettings, Names, Origins, Pairs, Ports
from core.system.memory import total_memory
from core.system.secret_key import load_secret_key

MIN_SECRET_CHARACTERS = 32
_MAX_MISSED_HEARTBEATS = 3
JOB_MEMORY_FRACTION = 0.8  # of the machine's memory; the service's own processes take about 2 GB
MAX_DEFAULT_INGEST_PROCESSES = 16  # beyond it, the process that reads the archive is the limit


class Settings(MlflowSettings, BaseSettings):
    """Locations, intervals and limits. Durations are in seconds unless the name says otherwise."""

    # Inputs are hidden: one may be a secret, and startup errors are logged.
    model_config = SettingsConfigDict(env_prefix="POTSTILL_", frozen=True, extra="ignore", hide_input_in_errors=True)

    home: Path = Field(
        default=Path("potstill-home"),
        description="Folder of this machine's data: database, artifacts, caches, scratch files.",
    )
    database_url: str = Field(
        default="",
        description="SQLAlchemy URL, `postgresql+psycopg://…` in production. Empty: SQLite in `HOME`.",
    )
    statement_timeout_seconds: float = Field(
        default=15.0,
        ge=0,
        description="PostgreSQL: longest time for one statement, for a lock and for an idle transaction. A statement "
        "that exceeds it, or a server that does not respond, is aborted: the API returns 503, workers retry. 0: no "
        "limit.",
    )
    broker_url: str = Field(
        default="redis://127.0.0.1:6379/0",
        description="Redis or Valkey: wakes workers and carries requests to the inspector. It holds no state.",
    )
    storage_url: str = Field(
        default="",
        description="Artifact store: `file:///…`, or `s3://bucket/prefix` with credentials, region and endpoint in the "
        "environment (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT_URL`) or from the "
        "machine's role. Empty: `HOME/artifacts`.",
    )
    secret_key: SecretStr = Field(
        default=SecretStr(""),
        description="Signs dashboard cookies, and the secrets of webhooks derive from it; 32 characters or more, the "
        "same for every API process and scheduler. Empty: generated on first start and saved in `HOME/secret-key`.",
    )
    behind_tls: bool = Field(
        default=False,
        description="Clients connect over HTTPS and a proxy terminates TLS: cookies are `Secure` and every response "
        "carries HSTS. Set `FORWARDED_ALLOW_IPS` (uvicorn) to the proxy's address; otherwise all clients share it.",
    )
    guide_dir: Path = Field(
        default=Path("build/site"),
        description="Folder of the documentation site (`make docs-site`), served at `/guide` if it exists at start.",
    )
    cors_origins: Origins = Field(
        default=(),
        description="Origins whose pages may call `/v1` from a browser, separated by commas: `https://app.example`; "
        "`*` for all. They need a key or a token, as cookies are never accepted from them. Empty: none.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = Field(
        default="json", description="Format of log lines: one JSON object per line, or text to read in a terminal."
    )

    accelerator: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Accelerator of this machine's job workers. `auto`: CUDA if available."
    )
    job_threads: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=1,
        description="Threads of a job without `resources.threads`.",
    )

    lease_seconds: float = Field(
        default=20.0,
        gt=0,
        description="Lease of a worker on its job. Without a heartbeat for this long, the worker loses the job.",
    )
    heartbeat_seconds: float = Field(default=5.0, gt=0, description="Interval at which a worker renews its lease.")
    outage_seconds: float = Field(
        default=120.0,
        ge=0,
        description="How long a running job continues while the database is unavailable; then it leaves its worker.",
    )
    control_poll_seconds: float = Field(
        default=1.0, gt=0, description="Interval at which a running job polls for cancel, pause and stop."
    )
    cancel_grace_seconds: float = Field(
        default=6.0, gt=0, description="A cancelled job that does not stop within this time is killed."
    )
    scheduler_interval_seconds: float = Field(
        default=1.0, gt=0, description="Interval between rounds of the scheduler."
    )
    gc_interval_seconds: float = Field(
        default=300.0, gt=0, description="Interval between garbage collections of unreferenced files and old records."
    )
    gc_min_age_seconds: float = Field(
        default=3600.0, ge=0, description="Unreferenced files are deleted once they are older than this."
    )
    cache_bytes: int = Field(
        default=50 * 1024**3,
        ge=0,
        description="Maximum size of `HOME/cache`; the least recently used entries are evicted first.",
    )
    teacher_cache_bytes: int = Field(
        default=10 * 1024**3,
        ge=0,
        description="Maximum size of cached teacher outputs in it. 0: every job runs its teachers.",
    )
    teacher_cache_share_seconds: float = Field(
        default=60.0,
        ge=0,
        description="Idle workers that share `HOME/cache` compute teacher outputs for a running job if the rest would "
        "take its own worker at least this long. 0: never.",
    )
    pixel_cache_bytes: int = Field(
        default=20 * 1024**3,
        ge=0,
        description="Maximum size of decoded images in it. A split that does not fit is decoded in every epoch, ahead "
        "of the training.",
    )
    input_cache_bytes: int = Field(
        default=20 * 1024**3,
        ge=0,
        description="Maximum size of datasets and models from a bucket in it. Inputs that do not fit are fetched by "
        "every attempt. 0: all inputs are.",
    )
    teacher_retention_days: float = Field(
        default=90.0, gt=0, description="A trained teacher is deleted when no job has used it for this long."
    )
    resume_retention_days: float = Field(
        default=7.0,
        gt=0,
        description="How long a failed or cancelled job can be retried from its last checkpoint. Then the training "
        "state is deleted and a retry starts again; downloadable weights stay. A job that succeeds deletes it at once.",
    )
    max_losses: int = Field(
        default=3,
        ge=1,
        description="A job fails after this many consecutive losses of its worker without a new checkpoint.",
    )
    job_memory_bytes: int = Field(
        default_factory=lambda: int(JOB_MEMORY_FRACTION * (total_memory() or 0)),
        ge=0,
        description="Memory limit of a job, without mapped files, shared equally by its processes. A job that exceeds "
        "it fails with `out_of_memory` and leaves other processes of the machine unharmed; one that needs more than "
        "any worker allows is refused. 0: no limit.",
    )
    max_job_seconds: float = Field(
        default=0.0,
        ge=0,
        description="Longest running time of a job over all its attempts, without waits and pauses; "
        "`resources.max_seconds` may set a lower limit. 0: no limit.",
    )
    stall_timeout_seconds: float = Field(
        default=1800.0,
        ge=0,
        description="A job's process that neither steps nor polls for this long is killed and its traceback is logged; "
        "this counts as a loss of its worker. Set it above the longest step and download. 0: never.",
    )
    inspect_timeout_seconds: float = Field(
        default=10.0, gt=0, description="Longest time for one request to the inspector."
    )
    idempotency_ttl_hours: float = Field(default=24.0, gt=0, description="How long an Idempotency-Key is stored.")

    rate_reads_per_minute: int = Field(
        default=60_000, ge=0, description="Reads per minute and API key. 0, here and below: no limit."
    )
    rate_writes_per_minute: int = Field(
        default=6_000, ge=0, description="Changes (actions, deletions, keys) per minute and API key."
    )
    rate_jobs_per_minute: int = Field(default=1_200, ge=0, description="New jobs per minute and API key.")
    rate_uploads_per_minute: int = Field(
        default=600, ge=0, description="New datasets and models per minute and API key."
    )
    rate_inspector_per_minute: int = Field(
        default=1_200, ge=0, description="Requests to the inspector (estimates, architectures) per minute and API key."
    )
    rate_wrong_keys_per_minute: int = Field(
        default=120, ge=0, description="Requests with a wrong API key per minute and client address."
    )
    quota_jobs: int = Field(
        default=10_000,
        ge=0,
        description="Unfinished jobs (queued, running, paused) of a project. 0, here and below: no limit. "
        "`potstill-server projects set` overrides the limits of one project.",
    )
    max_sweep_jobs: int = Field(default=100, ge=1, le=1_000, description="Jobs of one sweep.")
    quota_stored_bytes: int = Field(
        default=0,
        ge=0,
        description="Bytes of datasets, models, uploads, artifacts and checkpoints of a project. Above it, new jobs, "
        "retries and uploads are refused; accepted jobs continue, and their checkpoints may exceed it.",
    )
    quota_keys: int = Field(
        default=1_000, ge=0, description="Active API keys of a project; each has its own rate limits."
    )
    quota_uploads: int = Field(default=1_000, ge=0, description="Resumable uploads of a project at a time.")
    quota_webhooks: int = Field(default=100, ge=0, description="Webhooks of a project.")
    audit_retention_days: float = Field(
        default=365.0, gt=0, description="How long entries of the audit log are retained."
    )

    max_upload_bytes: int = Field(
        default=2 * 1024**3, gt=0, description="Maximum size of a file that is uploaded or fetched from a URL."
    )
    direct_url_seconds: float = Field(
        default=0.0,
        ge=0,
        le=7 * 24 * 3600,
        description="With a bucket as artifact store: how long a URL is valid with which a client reads an artifact "
        "from the bucket, or writes an upload to it, without the API in between. Clients must be able to reach the "
        "bucket's endpoint. 0: no such URLs.",
    )
    upload_retention_hours: float = Field(
        default=24.0,
        gt=0,
        description="A resumable upload is deleted this long after its last byte, unless a dataset or model that is "
        "made from it is still processing.",
    )
    max_unpacked_bytes: int = Field(default=20 * 1024**3, gt=0, description="Maximum size of an archive's content.")
    max_unpack_ratio: float = Field(
        default=200.0,
        gt=1,
        description="Maximum ratio of an archive's content to its size; above it, the archive is refused as a bomb.",
    )
    max_archive_files: int = Field(default=1_000_000, gt=0, description="Maximum number of files in an archive.")
    max_file_bytes: int = Field(
        default=256 * 1024**2, gt=0, description="Maximum size of an image file; larger files are skipped."
    )
    max_image_pixels: int = Field(
        default=64_000_000, gt=0, description="Maximum number of pixels in an image; larger images are skipped."
    )
    ingest_seconds: float = Field(
        default=4 * 3600.0,
        gt=0,
        description="Longest processor time for reading and decoding the files of one dataset. A busy "
        "machine may take four times as long.",
    )
    ingest_memory_bytes: int = Field(
        default=4 * 1024**3,
        gt=0,
        description="Memory limit of each process of an ingestion: the one that reads the archive, and each decoder.",
    )
    ingest_processes: int = Field(
        default_factory=lambda: min(os.cpu_count() or 1, MAX_DEFAULT_INGEST_PROCESSES),
        ge=1,
        le=256,
        description="Processes that decode the images of a dataset in parallel. They do not change the result.",
    )

    fetch_allow: Names = Field(
        default=(),
        description="Non-public host names and networks that URLs may point to, separated by commas: "
        "`minio.internal,10.1.0.0/16`.",
    )
    fetch_ports: Ports = Field(default=(HTTPS_PORT,), description="Ports that URLs may use, separated by commas.")
    fetch_seconds: float = Field(default=900.0, gt=0, description="Longest time for fetching one file from a URL.")
    fetch_idle_seconds: float = Field(
        default=30.0, gt=0, description="A download is aborted when no data arrives for this long."
    )
    hub_endpoint: str = Field(
        default="https://huggingface.co",
        description="Address of the Hugging Face hub, or of a mirror, from which datasets are fetched and to which "
        "students are pushed. `FETCH_ALLOW` and `FETCH_PORTS` apply.",
    )
    s3_sources: Names = Field(
        default=(),
        description="Buckets and prefixes from which every project may make datasets with the service's own "
        "credentials, separated by commas: `shared-data,team-bucket/images`. Empty: none.",
    )
    webhook_timeout_seconds: float = Field(
        default=15.0,
        gt=0,
        le=300,
        description="Longest time for one attempt to deliver a webhook. Its URL is limited by `FETCH_ALLOW` and "
        "`FETCH_PORTS`.",
    )
    webhook_retention_days: float = Field(
        default=30.0, gt=0, description="How long finished deliveries of webhooks are listed and can be repeated."
    )

    oidc_issuer: str = Field(
        default="",
        pattern=r"^(https://.+)?$",
        description="Issuer of JSON Web Tokens (OpenID Connect) that the API accepts besides API keys, as in their "
        "claim `iss`. `FETCH_ALLOW` and `FETCH_PORTS` apply to its host. Empty: no tokens.",
    )
    oidc_audience: Names = Field(
        default=(),
        description="Accepted values of the claim `aud`, separated by commas. Required with an issuer.",
    )
    oidc_jwks_url: str = Field(
        default="",
        description="URL of the issuer's keys. Empty: the `jwks_uri` of `ISSUER/.well-known/openid-configuration`.",
    )
    oidc_algorithms: Algorithms = Field(
        default=("RS256", "ES256"), description="Accepted signature algorithms; all have a public and a private key."
    )
    oidc_project_claim: str = Field(
        default="project",
        min_length=1,
        description="Claim with the project, or groups of which one maps to it. `a.b` reads `b` in the object `a`.",
    )
    oidc_projects: Pairs = Field(
        default={},
        description="Project by value of that claim, by id or name, separated by commas: `team-a=prj_…`. Empty: the "
        "claim holds the id or the name.",
    )
    oidc_scope_claim: str = Field(
        default="scope", min_length=1, description="Claim with the scopes: a list, or text with spaces in between."
    )
    oidc_scopes: Pairs = Field(
        default={},
        description="Scope (`read`, `write`, `admin`) by value of that claim: `potstill:submit=write`. Empty: the "
        "claim holds the scopes themselves.",
    )
    oidc_clock_skew_seconds: int = Field(
        default=30, ge=0, le=300, description="Accepted difference between the clocks of issuer and API."
    )

    @field_validator("secret_key")
    @classmethod
    def _require_strong_secret(cls, secret: SecretStr) -> SecretStr:
        """Require a secret that cannot be found offline from one cookie: with it, anyone could sign in as any key."""
        if 0 < len(secret.get_secret_value()) < MIN_SECRET_CHARACTERS:
            raise ValueError(
                f"a secret has at least {MIN_SECRET_CHARACTERS} characters; `openssl rand -hex 32` makes one"
            )
        return secret

    @field_validator("fetch_allow")
    @classmethod
    def _require_valid_networks(cls, allow: tuple[str, ...]) -> tuple[str, ...]:
        NetworkPolicy.from_settings(allow)
        return allow

    @field_validator("oidc_scopes")
    @classmethod
    def _require_known_scopes(cls, scopes: dict[str, str]) -> dict[str, str]:
        if unknown := sorted(set(scopes.values()) - {"read", "write", "admin"}):
            raise ValueError(f"unknown scopes {', '.join(unknown)}; known: read, write, admin")
        return scopes

    @model_validator(mode="after")
    def _require_audience(self) -> Self:
        """Require an audience: without one, the API would accept the issuer's tokens for any other service."""
        if self.oidc_issuer and not self.oidc_audience:
            raise ValueError("POTSTILL_OIDC_ISSUER needs POTSTILL_OIDC_AUDIENCE")
        return self

    @property
    def network_policy(self) -> NetworkPolicy:
        """Hosts and ports that URLs from clients may point to."""
        return NetworkPolicy.from_settings(self.fetch_allow, self.fetch_ports)

    @property
    def alive_seconds(self) -> float:
        """A process without a heartbeat for this long is not listed as a live one."""
        return _MAX_MISSED_HEARTBEATS * self.heartbeat_seconds

    def resolved_database_url(self) -> str:
        """The database URL with the embedded default filled in."""
        return self.database_url or f"sqlite:///{self.home.resolve()}/potstill.db"

    def resolved_storage_url(self) -> str:
        """The artifact store's URL with the embedded default filled in."""
        return self.storage_url or f"file://{self.home.resolve()}/artifacts"

    def resolved_secret_key(self) -> str:
        """The secret key, generated at first use if the setting is empty."""
        return self.secret_key.get_secret_value() or load_secret_key(self.home / "secret-key")


@cache
def load_settings() -> Settings:
    """Read the environment once per process."""
    return Settings()
