"""The balance of gradients needs a method with labels and distillation."""

import pytest

from core.errors import InvalidSpec
from core.resolve.resolver import resolve
from core.spec import parse_job_spec
from core.spec.examples import example_job
from core.spec.info import DatasetInfo

DATASET = DatasetInfo(
    num_classes=10, classes=tuple("0123456789"), channels=3, image_size=32, num_train=900, num_test=100
)


def resolved(name, rule, parameters):
    document = example_job(name)
    document["method"] |= parameters
    document["training"]["balance"] = {"rule": rule}
    return resolve(parse_job_spec(document), DATASET, {}, threads=1, datasets={"ds_pool": DATASET})


@pytest.mark.parametrize(
    ("name", "parameters"), [("kd", {}), ("fitnets", {"logits": "none"}), ("deit", {}), ("mutual", {})]
)
def test_methods_with_a_label_term_are_balanced(name, parameters):
    assert resolved(name, "projected", parameters).spec.training.balance.rule == "projected"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("scratch", {}),
        ("tinyvit", {}),
        ("feature", {}),
        ("attention_probe", {}),
        ("kd", {"alpha": 1.0}),
        ("fitnets", {"label_weight": 0.0}),
        ("minivit", {"label_weight": 0.0}),
    ],
)
def test_a_method_without_both_is_refused(name, parameters):
    assert resolved(name, "none", parameters)
    with pytest.raises(InvalidSpec) as caught:
        resolved(name, "min_norm", parameters)

    (error,) = caught.value.errors
    assert error.pointer == "/training/balance/rule"
    assert "set rule to none, or choose a method with a label term" in error.detail
