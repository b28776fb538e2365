"""Projects."""

from core.store import projects


def test_projects_are_listed_oldest_first(world):
    world.write(projects.create, "b")
    world.write(projects.create, "a")

    assert [project.name for project in world.read(projects.list_projects)] == ["main", "b", "a"]
