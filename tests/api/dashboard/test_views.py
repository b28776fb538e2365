from typing import get_args

import pytest

from api.dashboard import views
from api.jobs.schemas import JobAction, JobStatus

TEACHER = {"top1": 0.97, "top5": 0.99, "parameters": 11_000_000, "flops": 1e8, "size_bytes": 4e7, "latency_ms": 4.0}
STUDENT = {"top1": 0.91, "top5": None, "parameters": 200_000, "flops": 1e7, "size_bytes": 8e5, "latency_ms": 5.0}


def verdicts(student, *teachers):
    return {row.label: row.verdict for row in views.comparison({"student": student, "teachers": list(teachers)})}


def test_there_is_a_button_for_every_move_and_a_filter_for_every_status():
    assert set(views.MOVES) == set(get_args(JobAction))
    assert set(views.STATUSES) == set(get_args(JobStatus))


def test_the_buttons_are_exactly_the_next_actions(make_job):
    assert [move.name for move in views.moves(make_job())] == ["pause", "stop", "cancel"]
    assert views.moves(make_job(next_actions=[])) == []


@pytest.mark.parametrize(("fix", "style"), [(None, "primary"), ({"training": {"batch_size": 8}}, "plain")])
def test_where_there_is_a_fix_a_plain_retry_comes_second(make_job, fix, style):
    failed = make_job(
        status="failed", terminal=True, next_actions=["retry"], error={"code": "out_of_memory", "fix": fix}
    )

    assert [(move.name, move.style) for move in views.moves(failed)] == [("retry", style)]


def test_only_a_cancel_is_confirmed():
    assert [move.name for move in views.MOVES.values() if move.confirm] == ["cancel"]


def test_stations_are_those_behind_and_ahead(make_job):
    states = {stage.name: stage.state for stage in views.stages(make_job())}

    assert states == {
        "prepare": "done",
        "teacher": "done",
        "distill": "current",
        "evaluate": "ahead",
        "export": "ahead",
    }


def test_a_teacher_of_an_earlier_job_is_said_to_be_reused(make_job):
    job = make_job()
    del job["stages"][1]

    assert [(stage.name, stage.state, stage.note) for stage in views.stages(job)][:3] == [
        ("prepare", "done", "1.5 s"),
        ("teacher", "done", "reused"),
        ("distill", "current", "now"),
    ]


def test_a_job_without_a_trained_teacher_has_no_such_station(make_job):
    queued = make_job(status="queued", stage=None, stages=[])
    queued["spec"]["teachers"] = []

    assert [stage.name for stage in views.stages(queued)] == ["prepare", "distill", "evaluate", "export"]


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_job_that_ended_early_shows_where(make_job, status):
    states = [stage.state for stage in views.stages(make_job(status=status, terminal=True))]

    assert states == ["done", "done", "stopped", "skipped", "skipped"]


def test_the_student_is_compared_with_its_teacher():
    assert verdicts(STUDENT, TEACHER) == {
        "Top-1 accuracy": "keeps 93.8% of the teacher",
        "Top-5 accuracy": "",
        "Parameters": "55× fewer",
        "FLOPs per image": "10× fewer",
        "File size": "50× smaller",
        "Latency, one image": "1.2× slower",
    }


def test_what_is_worse_is_no_gain_and_a_twentieth_is_no_difference():
    rows = {row.label: row for row in views.comparison({"student": STUDENT, "teachers": [TEACHER]})}
    same = verdicts({**STUDENT, "latency_ms": 4.1}, TEACHER)

    assert not rows["Latency, one image"].is_gain
    assert rows["Parameters"].is_gain
    assert same["Latency, one image"] == "about the same"


def test_several_teachers_are_compared_by_the_best():
    weak = {**TEACHER, "top1": 0.5, "parameters": 100}

    assert verdicts(STUDENT, weak, TEACHER)["Parameters"] == "55× fewer"


def test_a_student_without_a_teacher_stands_alone():
    assert set(verdicts(STUDENT).values()) == {""}


def test_a_page_rests_when_nothing_will_change(make_job):
    assert views.refresh_seconds(make_job()) > 0
    assert views.refresh_seconds(make_job(status="succeeded")) == 0
    assert views.list_refresh_seconds([make_job()]) < views.list_refresh_seconds([])


def test_the_state_is_told_in_words(make_job):
    assert views.state_words(make_job()) == "running, distil"
    assert views.state_words(make_job(pending_action="pause")) == "running, pause is on its way"
    assert views.state_words(make_job(status="queued")) == "queued"


def test_a_job_without_a_name_is_called_by_its_method(make_job):
    assert views.title(make_job(name=None)) == "deit wxyz01"
    assert views.summary(make_job()) == "deit · resnet18 → vit_tiny_patch16_224"


def test_the_recipe_names_what_matters(make_job):
    facts = dict(views.facts(make_job(), "digits"))

    assert facts["Dataset"] == "digits"
    assert facts["Method"] == "deit"
    assert facts["Distillation type"] == "hard"
    assert facts["Image size"] == "28 × 28"
    assert dict(views.facts(make_job(), None))["Dataset"] == "ds_1"


def test_the_time_that_a_job_took_is_known_at_its_end(make_job):
    assert views.elapsed_seconds(make_job()) is None
    assert views.elapsed_seconds(make_job(finished_at="2026-11-24T08:00:31.000Z")) == 30.0
