"""The navigation of the dashboard: its pages, in the bar or in the menu. A page costs one line here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import Request

from api.auth import Caller
from api.guide import has_guide


@dataclass(frozen=True, slots=True)
class NavEntry:
    """A link of the navigation. ``section`` is the page's own name of its part; ``scope`` is needed to open it."""

    label: str
    url: str
    section: str
    scope: str = "read"


@dataclass(frozen=True, slots=True)
class Navigation:
    """The links for one request: ``pages`` stand in the bar of a wide window, ``groups`` (title, links) in the menu."""

    pages: Sequence[NavEntry]
    groups: Sequence[tuple[str, Sequence[NavEntry]]]

    def is_in_menu(self, section: str) -> bool:
        """Whether the menu has the link of a section."""
        return any(entry.section == section for _, entries in self.groups for entry in entries)


PAGES = (
    NavEntry("Jobs", "/jobs", "jobs"),
    NavEntry("Sweeps", "/sweeps", "sweeps"),
    NavEntry("Datasets", "/datasets", "datasets"),
    NavEntry("Models", "/models", "models"),
    NavEntry("Methods", "/methods", "methods"),
    NavEntry("Workers", "/workers", "workers"),
)
PROJECT = (
    NavEntry("API keys", "/keys", "keys", scope="admin"),
    NavEntry("Webhooks", "/webhooks", "webhooks"),
    NavEntry("Usage", "/usage", "usage"),
    NavEntry("Audit log", "/audit", "audit", scope="admin"),
)
HELP = (NavEntry("API reference", "/docs", "api"),)
GUIDE = NavEntry("Guide", "/guide/", "guide")


def navigation_for(request: Request | None) -> Navigation:
    """Return the links that the caller of a request may open; without a caller, those that need no special scope."""
    caller: Caller | None = getattr(request.state, "caller", None) if request is not None else None
    scopes = {"read"} if caller is None else {scope for scope in ("read", "write", "admin") if caller.has_scope(scope)}
    help_entries = (*HELP, GUIDE) if request is not None and has_guide(request.app) else HELP
    groups = [("Project", tuple(entry for entry in PROJECT if entry.scope in scopes)), ("Help", help_entries)]
    return Navigation(
        tuple(entry for entry in PAGES if entry.scope in scopes),
        tuple((title, entries) for title, entries in groups if entries),
    )
