"""All settings of all processes: environment variables ``POTSTILL_*``, one typed class.

Only the surfaces (``api``, ``worker``, ``server``) and the store read settings; the engine is a
library and gets plain arguments.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from core.fetch.targets import HTTPS_PORT, NetworkPolicy

MIN_SECRET_CHARACTERS = 32


def _split(value: Any) -> Any:
    """A list as an environment variable holds it."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Ports = Annotated[tuple[Annotated[int, Field(ge=1, le=65535)], ...], NoDecode, BeforeValidator(_split)]


class Settings(BaseSettings):
    """Where things are and how often they are looked at. Durations are in seconds."""

    # Inputs are hidden as the wrong one may be a secret, and errors at the start are logged.
    model_config = SettingsConfigDict(env_prefix="POTSTILL_", frozen=True, extra="ignore", hide_input_in_errors=True)

    home: Path = Field(
        default=Path("potstill-home"),
        description="Folder for everything that this machine keeps: database, artefacts, caches, scratch.",
    )
    database_url: str = Field(
        default="",
        description="SQLAlchemy URL, `postgresql+psycopg://…` in production. Empty: SQLite in `HOME`.",
    )
    statement_timeout_seconds: float = Field(
        default=15.0,
        ge=0,
        description="PostgreSQL: how long one statement may take, and a transaction do nothing. What takes longer, "
        "waits longer for a lock, or is not answered as the server stands still, is broken off: the API says 503, "
        "workers try again. 0: no limit.",
    )
    broker_url: str = Field(
        default="redis://127.0.0.1:6379/0",
        description="Redis or Valkey: wakes workers up and carries the inspector's questions. Never the truth.",
    )
    storage_url: str = Field(
        default="",
        description="Where artefacts live: `file:///…`, or `s3://bucket/prefix` with credentials, region and endpoint "
        "in the environment (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT_URL`) or from "
        "the machine's role. Empty: `HOME/artifacts`.",
    )
    secret_key: SecretStr = Field(
        default=SecretStr(""),
        description="Signs dashboard cookies; 32 characters or more. Empty: made on first start and kept in "
        "`HOME/secret-key`.",
    )
    behind_tls: bool = Field(
        default=False,
        description="Users reach the service over HTTPS, which a proxy in front ends: cookies are `Secure` and every "
        "answer carries HSTS. Name its address in `FORWARDED_ALLOW_IPS` (uvicorn), or it is taken for everybody's.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    accelerator: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="What this machine's job workers run on. `auto`: CUDA if there is one."
    )
    job_threads: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=1,
        description="Threads of a job whose spec leaves `resources.threads` open.",
    )

    lease_seconds: float = Field(default=20.0, gt=0, description="A worker silent for so long has lost its job.")
    heartbeat_seconds: float = Field(default=5.0, gt=0, description="How often a worker renews its lease.")
    outage_seconds: float = Field(
        default=120.0,
        ge=0,
        description="How long a running job trains on while the database is away, before it leaves its worker.",
    )
    control_poll_seconds: float = Field(
        default=1.0, gt=0, description="How often a running job looks for cancel, pause and stop."
    )
    cancel_grace_seconds: float = Field(
        default=6.0, gt=0, description="A cancelled job that does not react for so long is killed."
    )
    scheduler_interval_seconds: float = Field(default=1.0, gt=0, description="Rhythm of the scheduler's rounds.")
    gc_interval_seconds: float = Field(
        default=300.0, gt=0, description="Rhythm of the collection of orphaned files and old records."
    )
    gc_min_age_seconds: float = Field(
        default=3600.0, ge=0, description="Stored files that nothing names are deleted when they are older than this."
    )
    cache_bytes: int = Field(
        default=50 * 1024**3, ge=0, description="Most that `HOME/cache` may hold; what was used longest ago goes first."
    )
    teacher_cache_bytes: int = Field(
        default=10 * 1024**3,
        ge=0,
        description="Most that stored answers of teachers may take of it. 0: teachers are asked in every job.",
    )
    pixel_cache_bytes: int = Field(
        default=20 * 1024**3,
        ge=0,
        description="Most that decoded pictures may take of it. A split that does not fit is decoded again and again, "
        "ahead of the training.",
    )
    input_cache_bytes: int = Field(
        default=20 * 1024**3,
        ge=0,
        description="Most that datasets and models out of a bucket may take of it. What does not fit is fetched for "
        "each attempt. 0: everything is.",
    )
    teacher_retention_days: float = Field(
        default=90.0, gt=0, description="A trained teacher that no job has used for so long is forgotten."
    )
    max_losses: int = Field(
        default=3, ge=1, description="Losses of a worker in a row, without a checkpoint between, that fail a job."
    )
    job_memory_bytes: int = Field(
        default=0,
        ge=0,
        description="Most memory that each process of a job may ask for, mapped files aside. A job that asks for more "
        "fails with `out_of_memory`, instead of the machine running out for everybody. 0: no limit.",
    )
    max_job_seconds: float = Field(
        default=0.0,
        ge=0,
        description="Longest running time of any job, over all its attempts, without waits and pauses; "
        "`resources.max_seconds` may ask for less. 0: no limit.",
    )
    stall_timeout_seconds: float = Field(
        default=1800.0,
        ge=0,
        description="A job's process that takes no step and looks for no request for so long is ended, its traceback "
        "logged; it counts as a loss of its worker. Longer than the longest step and download. 0: never.",
    )
    inspect_timeout_seconds: float = Field(
        default=10.0, gt=0, description="Longest time for one question to the inspector."
    )
    idempotency_ttl_hours: float = Field(default=24.0, gt=0, description="How long an Idempotency-Key is remembered.")

    rate_reads_per_minute: int = Field(
        default=60_000, ge=0, description="Reads that a key may send in a minute. 0, here and below: no limit."
    )
    rate_writes_per_minute: int = Field(
        default=6_000, ge=0, description="Changes (moves, deletions, keys) that a key may ask for in a minute."
    )
    rate_jobs_per_minute: int = Field(default=1_200, ge=0, description="Jobs that a key may create in a minute.")
    rate_uploads_per_minute: int = Field(
        default=600, ge=0, description="Datasets and models that a key may create in a minute."
    )
    rate_inspector_per_minute: int = Field(
        default=1_200, ge=0, description="Questions to the inspector (estimates, architectures) of a key in a minute."
    )
    rate_wrong_keys_per_minute: int = Field(
        default=120, ge=0, description="Wrong keys that an address may send in a minute before it has to wait."
    )
    quota_jobs: int = Field(
        default=10_000,
        ge=0,
        description="Unfinished jobs (queued, running, paused) of a project. 0, here and below: no limit. "
        "`potstill-server projects set` gives a project limits of its own.",
    )
    quota_stored_bytes: int = Field(
        default=0,
        ge=0,
        description="Bytes of datasets, models, artefacts and checkpoints that a project may store. Beyond it new "
        "jobs, retries and uploads are refused; a job that was accepted goes on, and its checkpoints may go beyond.",
    )
    quota_keys: int = Field(
        default=1_000, ge=0, description="API keys in force of a project; each has rates of its own."
    )
    audit_retention_days: float = Field(default=365.0, gt=0, description="How long the audit log keeps an entry.")

    max_upload_bytes: int = Field(
        default=2 * 1024**3, gt=0, description="Largest file that is uploaded, or fetched from a URL."
    )
    max_unpacked_bytes: int = Field(default=20 * 1024**3, gt=0, description="Largest content of an archive.")
    max_unpack_ratio: float = Field(
        default=200.0, gt=1, description="An archive that unpacks to more than this many times its size is a bomb."
    )
    max_archive_files: int = Field(default=1_000_000, gt=0, description="Most files in one archive.")
    max_file_bytes: int = Field(
        default=256 * 1024**2, gt=0, description="Largest image file; a larger one is left out of its dataset."
    )
    max_image_pixels: int = Field(
        default=64_000_000, gt=0, description="Most pixels in one image; a larger one is left out of its dataset."
    )
    ingest_seconds: float = Field(
        default=4 * 3600.0, gt=0, description="Longest time for reading and decoding the files of one dataset."
    )
    ingest_memory_bytes: int = Field(
        default=4 * 1024**3, gt=0, description="Most memory of the process that reads a dataset's files."
    )

    fetch_allow: Names = Field(
        default=(),
        description="Host names and networks, with commas between, that URLs may name though they are not public: "
        "an object store of one's own, say. Like `minio.internal,10.1.0.0/16`.",
    )
    fetch_ports: Ports = Field(default=(HTTPS_PORT,), description="Ports that URLs may name, with commas between.")
    fetch_seconds: float = Field(default=900.0, gt=0, description="Longest time for fetching one file from a URL.")
    fetch_idle_seconds: float = Field(
        default=30.0, gt=0, description="A download in which nothing arrives for so long is given up."
    )

    @field_validator("secret_key")
    @classmethod
    def _hard_to_guess(cls, secret: SecretStr) -> SecretStr:
        """Whoever has one cookie can try secrets at home, and with the right one sign in as any key."""
        if 0 < len(secret.get_secret_value()) < MIN_SECRET_CHARACTERS:
            raise ValueError(
                f"a secret has at least {MIN_SECRET_CHARACTERS} characters; `openssl rand -hex 32` makes one"
            )
        return secret

    @field_validator("fetch_allow")
    @classmethod
    def _known_places(cls, allow: tuple[str, ...]) -> tuple[str, ...]:
        NetworkPolicy.of(allow)
        return allow

    @property
    def network_policy(self) -> NetworkPolicy:
        """What URLs from outside may lead to."""
        return NetworkPolicy.of(self.fetch_allow, self.fetch_ports)

    def resolved_database_url(self) -> str:
        """The database URL with the embedded default filled in."""
        return self.database_url or f"sqlite:///{self.home.resolve()}/potstill.db"

    def resolved_storage_url(self) -> str:
        """The artefact store's URL with the embedded default filled in."""
        return self.storage_url or f"file://{self.home.resolve()}/artifacts"


@cache
def load_settings() -> Settings:
    """Read the environment once per process."""
    return Settings()
