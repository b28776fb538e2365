"""Names and id prefixes: find the one dataset, model or job of a project that a text refers to.

An id wins over a name, and a name over an id prefix. Deleted objects and those of other projects never match.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final, Literal

from sqlalchemy import Row, Select, select
from sqlalchemy.orm import Session

from core.errors import AmbiguousReference, NotFound
from core.ids import ALPHABET, ID_CHARACTERS, Prefix, is_id
from core.spec.job import WEIGHT_KEYWORDS
from core.spec.parse import did_you_mean
from core.store.db import format_time
from core.store.pagination import not_found
from core.store.tables import Dataset, Job, Model

Kind = Literal["dataset", "model", "job"]

MIN_PREFIX_CHARACTERS = 3  # after the type: `ds_01a`
MAX_CANDIDATES = 10
_MAX_TEXT_CHARACTERS = 1000  # a name has at most 200
_NUM_KNOWN_NAMES = 200  # newest objects whose names are compared with an unknown name

_TABLES: Final[dict[Kind, type[Dataset | Model | Job]]] = {"dataset": Dataset, "model": Model, "job": Job}
_PREFIXES: Final[dict[Kind, Prefix]] = {"dataset": "ds", "model": "mdl", "job": "job"}

Candidate = Row[str, str | None, str, datetime]  # id, name, status, created_at


def is_full_id(kind: Kind, text: str) -> bool:
    """Whether ``text`` has the form of an id of this kind, so that :func:`find_id` needs no query."""
    return is_id(text, _PREFIXES[kind])


def find_id(session: Session, project_id: str, kind: Kind, text: str) -> str:
    """Return the id of the object with this id, unique name or unique id prefix.

    A text with the form of an id is returned unchanged, whether such an object exists or not. Raises ``NotFound`` with
    the nearest names, and ``AmbiguousReference`` with the candidates.
    """
    if is_full_id(kind, text):
        return text
    candidates = _with_name(session, project_id, kind, text) or _with_prefix(session, project_id, kind, text)
    if not candidates:
        raise _unknown(session, project_id, (kind,), text)
    return _require_unique(kind, text, candidates)


def find_weights(session: Session, project_id: str, text: str) -> str:
    """Return the id of the model or job that ``weights`` refers to.

    Keywords and ids are returned unchanged, also ids of checkpoints. A model's name wins over a job's: the student of a
    job has the name of its job. Raises as :func:`find_id`.
    """
    if text in WEIGHT_KEYWORDS or any(is_id(text, prefix) for prefix in ("mdl", "job", "ckpt")):
        return text
    found = _first_match(session, project_id, ("model", "job"), text)
    if found is None:
        raise _unknown(session, project_id, ("model", "job"), text, WEIGHT_KEYWORDS)
    return _require_unique(found[0], text, found[1])


def find_any_id(session: Session, project_id: str, text: str) -> str | None:
    """Return the id of the dataset, model or job with this name or id prefix; None if there is none.

    Raises ``AmbiguousReference``.
    """
    found = _first_match(session, project_id, ("dataset", "model", "job"), text)
    return None if found is None else _require_unique(found[0], text, found[1])


# --- internal ---------------------------------------------------------------------------------------


def _first_match(
    session: Session, project_id: str, kinds: Sequence[Kind], text: str
) -> tuple[Kind, Sequence[Candidate]] | None:
    """Return the first kind with a match, and its matches; names of all kinds come before prefixes."""
    for search in (_with_name, _with_prefix):
        for kind in kinds:
            if candidates := search(session, project_id, kind, text):
                return kind, candidates
    return None


def _with_name(session: Session, project_id: str, kind: Kind, text: str) -> Sequence[Candidate]:
    if not text or len(text) > _MAX_TEXT_CHARACTERS:
        return ()
    return session.execute(_candidates(project_id, kind).where(_TABLES[kind].name == text)).all()


def _with_prefix(session: Session, project_id: str, kind: Kind, text: str) -> Sequence[Candidate]:
    characters = text.removeprefix(f"{_PREFIXES[kind]}_")
    is_prefix = characters != text and MIN_PREFIX_CHARACTERS <= len(characters) < ID_CHARACTERS
    if not is_prefix or not set(characters) <= set(ALPHABET):
        return ()
    id_column = _TABLES[kind].id
    # A range, which uses the index; `startswith` alone would not.
    in_range = id_column.between(text, text + ALPHABET[-1] * ID_CHARACTERS)
    return session.execute(_candidates(project_id, kind).where(in_range, id_column.startswith(text))).all()


def _candidates(project_id: str, kind: Kind) -> Select[str, str | None, str, datetime]:
    table = _TABLES[kind]
    columns = select(table.id, table.name, table.status, table.created_at).where(table.project_id == project_id)
    return columns.order_by(table.id.desc()).limit(MAX_CANDIDATES + 1)


def _require_unique(kind: Kind, text: str, candidates: Sequence[Candidate]) -> str:
    if len(candidates) == 1:
        return str(candidates[0].id)
    shown = candidates[:MAX_CANDIDATES]
    count = str(len(shown)) if len(shown) == len(candidates) else f"more than {len(shown)}"
    ids = ", ".join(f"{row.id} ({row.status})" for row in shown)
    newest = "" if len(shown) == len(candidates) else "; the newest"
    documents = [
        {
            "id": row.id,
            "object": kind,
            "name": row.name,
            "status": row.status,
            "created_at": format_time(row.created_at),
        }
        for row in shown
    ]
    raise AmbiguousReference(
        f"{text[:60]!r} matches {count} {kind}s{newest}: {ids}. Send the id of one of them.",
        extra={"candidates": documents},
    )


def _unknown(
    session: Session, project_id: str, kinds: Sequence[Kind], text: str, keywords: Iterable[str] = ()
) -> NotFound:
    names = list(keywords)
    for kind in kinds:
        table = _TABLES[kind]
        newest = select(table.name).where(table.project_id == project_id).order_by(table.id.desc())
        names += [name for name in session.scalars(newest.limit(_NUM_KNOWN_NAMES)) if name]
    hint = did_you_mean(text, dict.fromkeys(names)) if len(text) <= _MAX_TEXT_CHARACTERS else ""
    if any(text.startswith(f"{_PREFIXES[kind]}_") and not _has_prefix_length(kind, text) for kind in kinds):
        hint = f" An id prefix has at least {MIN_PREFIX_CHARACTERS} characters after its type."
    error = not_found(" or ".join(kinds), text)
    return NotFound(f"{error.detail}{hint}")


def _has_prefix_length(kind: Kind, text: str) -> bool:
    return len(text.removeprefix(f"{_PREFIXES[kind]}_")) >= MIN_PREFIX_CHARACTERS
