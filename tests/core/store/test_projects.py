"""Projects."""

from core.store import projects


def test_projects_are_listed_oldest_first(world):
    world.do(projects.create, "b")
    world.do(projects.create, "a")

    assert [one.name for one in world.ask(projects.list_projects)] == ["mine", "b", "a"]
