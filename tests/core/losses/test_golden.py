"""Values and gradients of every loss match the official code of its method (golden.json)."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from core import losses

CASES = json.loads(Path(__file__).with_name("golden.json").read_text())["cases"]
TRAP = CASES.pop("manifold_TRAP_negative_prefix")
TOLERANCE = 1e-5

TEACHERS = {"t", "t0", "t1", "t_logits", "F_t", "f_t", "feature_T", "teacher_logits", "teacher_conv", "teacher_inv"}
TEACHERS |= {f"t{layer}{part}" for layer in "01" for part in "qkv"}
GIVEN = {"y", "target", "targets", "soft_targets", "weights", "mask_rand"}


def drawn(case):
    torch.manual_seed(0)
    inputs = {}
    for name, kind, shape, total in case["draws"]:
        match kind.split():
            case ["randint", num_classes]:
                value = torch.randint(0, int(num_classes), shape)
            case ["softmax"]:
                value = torch.randn(shape).softmax(dim=-1)
            case ["rand"]:
                value = torch.rand(shape)
            case ["randn", *scale]:
                value = torch.randn(shape) * float(*scale or (1,))
        assert value.sum().item() == pytest.approx(total, rel=1e-4, abs=1e-4), f"another draw of {name}"
        inputs[name] = value if name in GIVEN else value.requires_grad_()
    return inputs


def filled(module):
    """Set the golden values' weights: 0.1 sin(j + i) for entry j of parameter i."""
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.copy_((0.1 * (torch.arange(parameter.numel()) + number).sin()).view_as(parameter))
    return module


def deit(x, w):
    names = ("s_cls", "s_dist", "t") if "t" in x else ("student_logits", "student_kd_logits", "teacher_logits")
    head, token, teacher = (x[name] for name in names)
    base = F.cross_entropy(head, x["y"] if "y" in x else x["soft_targets"])
    options = {"distillation_type": w["type"], "alpha": w["alpha"], "temperature": w["tau"]}
    return losses.deit(head, head if "student" in w else token, teacher, base, **options)


def manifold_layer(x, w):
    torch.manual_seed(w["rand_seed"])
    return losses.manifold(x["F_s"], x["F_t"], num_random=w["K"])


def manifold_total(x, w):
    torch.manual_seed(w["rand_seed"])
    blocks = [losses.manifold(x[f"s{i}"], x[f"t{i}"], num_random=w["K"]) for i in (0, 1)]
    patch, sample, random = (torch.stack(terms).mean() for terms in zip(*blocks, strict=True))
    taught = losses.token_divergence(
        x["s_logits"], x["t_logits"], distillation_type=w["type"], temperature=w["tau"], reduction="sample"
    )
    base = F.cross_entropy(x["s_logits"], x["y"])
    spread = (w["w_sample"] * sample, w["w_patch"] * patch, w["w_rand"] * random)
    return ((1 - w["alpha"]) * base, w["alpha"] * taught, *(w["beta"] * term for term in spread))


def tat_kdloss(x, w):
    divergence = losses.kd(x["s"], x["t"], temperature=w["temperature"])
    if w["alpha"] is None:
        return divergence / w["temperature"] ** 2
    beta = 1 - w["alpha"] if w["beta"] is None else w["beta"]
    return w["alpha"] * F.cross_entropy(x["s"], x["y"]) + beta * divergence


def minivit_relation(x, w):
    layers = [
        losses.qkv_relation(
            [x[f"s{layer}{part}"] for part in "qkv"],
            [x[f"t{layer}{part}"] for part in "qkv"],
            relation_heads=w["Ar"],
        )
        for layer in range(w["layers"])
    ]
    return torch.stack(layers).mean()


def stored(x, w):
    return (2 * x["t_logits"].detach()).softmax(dim=1).topk(w["K"])


def tinyvit_sparse(x, w):
    probability, index = stored(x, w)
    return losses.sparse_soft_labels(x["s_logits"], index.short(), probability.half())


def tinyvit_negative(_, w):
    index, probability = torch.tensor(w["index"]), torch.tensor(w["values"])
    return losses.dense_soft_labels(index, probability, num_classes=w["C"], clamp=False)[0]


def robust(x, w):
    pairs = zip(x["student_logits"].split(1), x["teacher_logits"].split(1), strict=True)
    return (x["weights"] * torch.stack([losses.kd(*pair, temperature=w["T"]) for pair in pairs])).mean()


def correlation(x, w):
    student, teacher = (filled(nn.Linear(x[name].shape[1], w["dim"]))(x[name]) for name in ("f_s", "f_t"))
    return losses.correlation(student, teacher, scale=w["scale"])


def mgd(x, w):
    align = nn.Conv2d(6, 9, 1)
    generate = nn.Sequential(nn.Conv2d(9, 9, 3, padding=1), nn.ReLU(), nn.Conv2d(9, 9, 3, padding=1))
    filled(nn.Sequential(align, generate))
    return losses.masked_generation(x["f_s"], x["f_t"], align, generate, x["mask_rand"] >= w["lam"], alpha=w["alpha"])


def logits(x):
    return x["student_logits"], x["teacher_logits"]


def label_term(x):
    return losses.co_advise(x["cls"], [], [], x["targets"])


def token_term(x, kind):
    return losses.co_advise(x["cls"], [x[f"head_{kind}"]], [x[f"teacher_{kind}"]], x["targets"]) - label_term(x)


# Prefix of a case's name, and the computation of its value.
FORMULAS = {
    "deit_": deit,
    "uvc_distill_": deit,
    "minideit_": deit,
    "manifold_layer": manifold_layer,
    "manifold_total": manifold_total,
    "tat_maskedfm_": lambda x, w: losses.target_aware(x["q"], x["t"], x["v"], x["t"], heads=w["heads"]),
    "tat_kdloss_": tat_kdloss,
    "minivit_relation_": minivit_relation,
    "minivit_soft_ce_": lambda x, w: losses.cross_entropy_kd(x["s"], x["t"], temperature=w["tau"]) / w["tau"] ** 2,
    "tinyvit_sparse_": tinyvit_sparse,
    "tinyvit_negative_": tinyvit_negative,
    "coadvise_ce": lambda x, _: label_term(x),
    "coadvise_conv": lambda x, _: token_term(x, "conv"),
    "coadvise_inv": lambda x, _: token_term(x, "inv"),
    "ap_robust": robust,
    "ap_csloss": lambda x, _: losses.attention_concentration(x["cls_attention_row"]),
    "ap_patch_probe": lambda x, _: losses.attention_probe(x["feature_S"], x["feature_T"], normalize=False),
    "ap_noise_matrix": lambda x, w: losses.noise_matrix(x["A"], teacher_accuracy=w["teacher_acc"]),
    "ap_value_out": lambda x, _: losses.wild_scores(x["teacher_logits"]),
    "uvc_least": lambda x, w: losses.smallest_groups(x["g"], w["s"]),
    "ofa_loss": lambda x, w: losses.one_for_all(
        *logits(x), x["target"], epsilon=w["eps"], temperature=w["temperature"]
    ),
    "dist_": lambda x, w: losses.dist(*logits(x), beta=w["beta"], gamma=w["gamma"], temperature=w["tau"]),
    "ofakd_dkd": lambda x, w: losses.decoupled(
        *logits(x), x["target"], alpha=w["alpha"], beta=w["beta"], temperature=w["T"]
    ),
    "dkd_": lambda x, w: losses.decoupled(
        *logits(x), x["target"], alpha=w["alpha"], beta=w["beta"], temperature=w["T"]
    ),
    "ofakd_bkd": lambda x, _: losses.binary_kd(*logits(x)),
    "ofakd_correlation": correlation,
    "kd_hinton": lambda x, w: losses.kd(*logits(x), temperature=w["T"]),
    "rkd_distance": lambda x, _: losses.relational_distance(x["f_s"], x["f_t"]),
    "rkd_angle": lambda x, _: losses.relational_angle(x["f_s"], x["f_t"]),
    "at_": lambda x, w: losses.attention_transfer(x["f_s"], x["f_t"], power=w["p"]),
    "logitstd_kd": lambda x, w: losses.kd(*map(losses.standardize, logits(x)), temperature=w["T"]),
    "mlkd_class": lambda x, w: losses.class_correlation(*logits(x), temperature=w["T"]),
    "mlkd_batch": lambda x, w: losses.batch_correlation(*logits(x), temperature=w["T"]),
    "nkd_": lambda x, w: losses.normalized(*logits(x), x["target"], gamma=w["gamma"], temperature=w["temp"]),
    "mgd_": mgd,
}


def value_of(name, inputs):
    (formula,) = [formula for beginning, formula in FORMULAS.items() if name.startswith(beginning)]
    value = formula(inputs, CASES[name]["with"])
    return torch.stack(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("name", CASES)
def test_the_value_matches_the_official_code(name):
    expected = torch.tensor(CASES[name]["expected"])

    value = value_of(name, drawn(CASES[name])).detach()

    torch.testing.assert_close(value, expected, rtol=TOLERANCE, atol=1e-9)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "gradients" in case])
def test_the_gradients_match_the_official_code_and_the_teacher_has_none(name):
    inputs = drawn(CASES[name])

    value_of(name, inputs).sum().backward()

    for leaf, expected in CASES[name]["gradients"].items():
        gradient = inputs[leaf].grad
        norm = 0.0 if gradient is None else gradient.norm().item()
        assert norm == pytest.approx(expected or 0.0, rel=TOLERANCE, abs=1e-12), leaf
    assert [leaf for leaf in TEACHERS & inputs.keys() if inputs[leaf].grad is not None] == []


def test_every_formula_has_a_golden_case():
    assert {beginning for beginning in FORMULAS if not any(name.startswith(beginning) for name in CASES)} == set()


def test_different_numbers_of_tokens_are_rejected_unlike_in_the_official_code():
    inputs = drawn(TRAP)

    with pytest.raises(ValueError, match="same B and N"):
        manifold_layer(inputs, TRAP["with"])


def test_the_minimum_of_attention_relations_is_the_teachers_entropy():
    case = CASES["minivit_relation_ar1"]
    inputs = drawn(case)
    same = {name: inputs["t" + name[1:]] for name in inputs} | {n: t for n, t in inputs.items() if n.startswith("t")}

    assert minivit_relation(same, case["with"]).item() == pytest.approx(case["floor"], rel=TOLERANCE)


def test_the_random_rows_of_the_manifold_match_the_official_code():
    case = CASES["manifold_layer"]
    inputs, rows = drawn(case), case["rand_rows"]
    grams = []
    for name in ("F_s", "F_t"):
        unit = F.normalize(inputs[name].flatten(0, 1)[rows], dim=1)
        grams.append(unit @ unit.T)

    assert manifold_layer(inputs, case["with"])[2].item() == pytest.approx(F.mse_loss(*grams).item(), rel=TOLERANCE)


def test_dense_labels_match_the_official_code():
    case = CASES["tinyvit_sparse_loss_K3"]
    probability, index = stored(drawn(case), case["with"])

    dense = losses.dense_soft_labels(index, probability.half(), num_classes=20)

    assert dense[0].tolist() == pytest.approx(case["dense_row0"], rel=TOLERANCE)
    assert dense.sum(dim=1).tolist() == pytest.approx(case["row_sums"], rel=TOLERANCE)
