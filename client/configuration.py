"""Where the service is and which key to use: the environment, else what ``potstill login`` kept."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from client.errors import NotConfigured
from client.sdk import Potstill

URL_VARIABLE = "POTSTILL_URL"
KEY_VARIABLE = "POTSTILL_API_KEY"


@dataclass(frozen=True, slots=True)
class Connection:
    """A service and a key for it."""

    url: str
    api_key: str


def configuration_file() -> Path:
    """``~/.config/potstill/config.json``, or below ``XDG_CONFIG_HOME``."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "potstill" / "config.json"


def load_connection() -> Connection:
    """The connection to use; each environment variable wins over the file. Raises :class:`NotConfigured`."""
    url, api_key = os.environ.get(URL_VARIABLE), os.environ.get(KEY_VARIABLE)
    path = configuration_file()
    if not (url and api_key) and path.exists():
        kept = _read(path)
        url, api_key = url or kept.url, api_key or kept.api_key
    if not url or not api_key:
        raise NotConfigured(f"run `potstill login` first, or set {URL_VARIABLE} and {KEY_VARIABLE}")
    return Connection(url, api_key)


def connect() -> Potstill:
    """A client for the configured service. Raises :class:`NotConfigured`."""
    connection = load_connection()
    return Potstill(connection.url, connection.api_key)


def save_connection(connection: Connection) -> Path:
    """Keep the connection for later calls, readable by its owner alone."""
    path = configuration_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(asdict(connection), file, indent=2)
    beside.replace(path)
    return path


def _read(path: Path) -> Connection:
    try:
        document = json.loads(path.read_text())
        return Connection(url=document["url"], api_key=document["api_key"])
    except (ValueError, KeyError, TypeError) as error:
        raise NotConfigured(f"{path} cannot be read ({error}); run `potstill login` again") from error
