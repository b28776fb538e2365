"""The training block: optimizers with their defaults, gradient accumulation, and fields of other trainers."""

import pytest

from core.errors import InvalidSpec
from core.spec import parse_job_spec

TEACHER = {"architecture": "resnet18", "weights": "train"}


def parse(training, **changes):
    document = {"dataset": "ds_1", "student": {"architecture": "resnet10t"}, "method": {"name": "scratch"}}
    return parse_job_spec({**document, "training": training, **changes})


def errors_of(training, **changes):
    with pytest.raises(InvalidSpec) as caught:
        parse(training, **changes)
    return {error.pointer: error.detail for error in caught.value.errors}


@pytest.mark.parametrize(
    ("training", "rate", "decay"),
    [
        ({}, 1e-3, 0.05),
        ({"optimizer": "adamw"}, 1e-3, 0.05),
        ({"optimizer": "sgd"}, 0.05, 5e-4),
        ({"optimizer": "lion"}, 1e-4, 0.5),
        ({"optimizer": "sgd", "learning_rate": 0.2}, 0.2, 5e-4),
        ({"optimizer": "sgd", "weight_decay": 0.0}, 0.05, 0.0),
    ],
)
def test_the_optimizer_sets_the_defaults_of_rate_and_decay(training, rate, decay):
    parsed = parse(training).training

    assert (parsed.learning_rate, parsed.weight_decay) == (rate, decay)
    assert parse(parsed.model_dump(mode="json")).training == parsed


def test_a_teachers_training_has_the_same_fields():
    training = {"optimizer": "sgd", "gradient_accumulation": 2}
    parsed = parse({}, method={"name": "kd"}, teachers=[{**TEACHER, "training": training}])

    assert parsed.teachers[0].training.learning_rate == 0.05


@pytest.mark.parametrize("optimizer", ["adam", "", 3, None, ["sgd"]])
def test_an_unknown_optimizer_is_refused(optimizer):
    assert set(errors_of({"optimizer": optimizer})) == {"/training/optimizer"}


def test_a_batch_has_an_image_for_each_part():
    assert parse({"gradient_accumulation": 8, "batch_size": 8})
    errors = errors_of({"gradient_accumulation": 9, "batch_size": 8})
    assert "must not be above batch_size 8" in errors["/training/gradient_accumulation"]


@pytest.mark.parametrize("field", ["early_stopping", "patience"])
def test_early_stopping_is_explained(field):
    assert "no early stopping" in errors_of({field: 3})[f"/training/{field}"]
    teachers = [{**TEACHER, "training": {field: 3}}]
    assert "action stop" in errors_of({}, method={"name": "kd"}, teachers=teachers)[f"/teachers/0/training/{field}"]


def test_names_of_other_trainers_lead_to_ours():
    detail = errors_of({"gradient_accumulation_steps": 2})["/training/gradient_accumulation_steps"]

    assert "Did you mean gradient_accumulation" in detail


def test_gradients_are_not_balanced_by_default():
    balance = parse({}).training.balance

    assert (balance.rule, balance.delta, balance.dot_delta) == ("none", 0.075, None)


def test_dot_has_a_delta_and_needs_sgd():
    balance = {"rule": "dot", "delta": 0.09}
    assert parse({"optimizer": "sgd", "balance": balance}).training.balance.dot_delta == 0.09

    for optimizer in ({}, {"optimizer": "lion"}):
        errors = errors_of({**optimizer, "balance": balance})
        assert "set optimizer to sgd" in errors["/training/balance"]


@pytest.mark.parametrize(
    ("balance", "field"),
    [({"rule": "dot", "delta": 0.1}, "delta"), ({"rule": "mgda"}, "rule"), ({"weight": 1}, "weight")],
)
def test_an_invalid_balance_is_refused(balance, field):
    assert f"/training/balance/{field}" in errors_of({"optimizer": "sgd", "balance": balance})


def test_a_teachers_training_has_no_balance():
    teacher = {**TEACHER, "training": {"balance": {"rule": "projected"}}}

    errors = errors_of({}, method={"name": "kd"}, teachers=[teacher])
    assert list(errors) == ["/teachers/0/training/balance"]
