import json

import pytest
import timm

from core.errors import InvalidSpec
from core.export import onnx_file
from core.models import catalog
from core.resolve.resolver import resolve
from core.spec import parse_job_spec
from core.spec.info import DatasetInfo, ModelInfo

DIGITS = DatasetInfo(
    num_classes=10, classes=tuple("0123456789"), channels=1, image_size=8, num_train=1437, num_test=360
)
VIT = "vit_tiny_patch16_224"
SMALL = {"img_size": 8, "patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2}
STORED = ModelInfo(
    architecture=VIT,
    arguments={**SMALL, "num_classes": 10, "in_chans": 3},
    num_classes=10,
    channels=3,
    image_size=8,
    parameters=26_000,
    size_bytes=100_000,
)
CNN = ModelInfo(
    architecture="resnet18",
    arguments={"num_classes": 10, "in_chans": 3},
    num_classes=10,
    channels=3,
    parameters=11_000_000,
    size_bytes=44_000_000,
)


def spec(**change):
    document = {
        "dataset": "ds_x",
        "student": {"architecture": VIT, "arguments": SMALL},
        "teachers": [{"architecture": "resnet18", "weights": "train"}],
        "method": {"name": "kd"},
        "training": {"epochs": 12, "batch_size": 64},
        **change,
    }
    return parse_job_spec(document)


def errors_of(*, dataset=DIGITS, models=None, **change):
    with pytest.raises(InvalidSpec) as caught:
        resolve(spec(**change), dataset, models or {}, threads=2)
    return {error.pointer: error.detail for error in caught.value.errors}


def test_all_defaults_are_filled_in():
    resolved = resolve(spec(), DIGITS, {}, threads=3).spec

    assert resolved.training.image_size == 8
    assert resolved.teachers[0].training.image_size == 8
    assert resolved.resources.threads == 3


def test_resolving_a_resolved_spec_changes_nothing():
    once = resolve(spec(training={"learning_rate": 1e-6}), DIGITS, {}, threads=3)
    sent = json.loads(once.spec.model_dump_json())

    assert resolve(parse_job_spec(sent), DIGITS, {}, threads=5) == once
    assert once.spec.training.min_learning_rate == 1e-6


def test_the_estimate_has_the_fields_of_the_contract():
    estimate = resolve(spec(), DIGITS, {}, threads=2).estimate
    json.dumps(estimate)

    assert set(estimate) == {
        "student", "teachers", "epochs", "total_steps", "seconds", "memory_bytes", "teacher_cache", "baseline",
        "compression", "warnings", "method", "distillations", "teacher_trainings",
    }  # fmt: skip
    assert {"parameters", "flops", "size_bytes"} <= set(estimate["student"])
    assert estimate["student"]["parameters"] == 26_538
    assert estimate["teachers"][0]["parameters"] == 11_175_370
    assert (estimate["epochs"], estimate["total_steps"]) == (12, 12 * 23)
    cache = estimate["teacher_cache"]
    assert (cache["bytes"], cache["views"], cache["hit"]) == (12 * 1437 * 10 * 2, 12, False)
    assert [warning["code"] for warning in estimate["warnings"]] == ["few_steps"]


@pytest.mark.parametrize(
    ("change", "num_bytes"),
    [
        ({"training": {"epochs": 12, "views": 3}}, 3 * 1437 * 10 * 2),
        ({"training": {"epochs": 2, "views": 3}}, 2 * 1437 * 10 * 2),
        ({"method": {"name": "rkd"}}, 12 * 1437 * (512 + 10) * 2),  # embeddings and logits
        ({"method": {"name": "rkd", "logits": "none"}}, 12 * 1437 * 512 * 2),
        # Without augmentation and mixing, all views are the same.
        ({"training": {"epochs": 12, "augmentation": "none"}}, 1437 * 10 * 2),
        ({"training": {"epochs": 12, "augmentation": "none", "mixup": 0.8}}, 12 * 1437 * 10 * 2),
        ({"method": {"name": "tinyvit"}}, 12 * 1437 * 10 * 2),  # 9 of 10 classes, their places and the rest are more
        ({"method": {"name": "dearkd", "first_stage": 0.5}}, 6 * 1437 * (128 + 10) * 2),
        ({"method": {"name": "scratch"}, "teachers": []}, 0),
    ],
)
def test_the_estimate_has_the_size_of_the_teacher_cache(change, num_bytes):
    assert resolve(spec(**change), DIGITS, {}, threads=2).estimate["teacher_cache"]["bytes"] == num_bytes


def test_teachers_with_cached_outputs_cost_only_their_views():
    few, many = (resolve(spec(training={"epochs": 12, "views": n}), DIGITS, {}, threads=2).estimate for n in (1, None))
    online = resolve(spec(teachers=[], method={"name": "scratch"}), DIGITS, {}, threads=2).estimate

    assert few["teacher_cache"]["seconds"] * 12 == pytest.approx(many["teacher_cache"]["seconds"], abs=1.0)
    assert many["seconds"] - few["seconds"] == pytest.approx(11 / 12 * many["teacher_cache"]["seconds"], abs=0.3)
    assert online["teacher_cache"]["seconds"] == 0


def cache_key(**change):
    return resolve(spec(**change), DIGITS, {}, threads=2).estimate["teacher_cache"]["cache_key"]


def test_the_cache_key_does_not_depend_on_student_and_epochs():
    small = {"architecture": VIT, "arguments": {**SMALL, "depth": 1}}

    assert cache_key() is not None
    assert cache_key(student=small, method={"name": "dkd"}, training={"epochs": 3, "batch_size": 32}) == cache_key()
    assert cache_key(method={"name": "scratch"}, teachers=[]) is None
    different = [
        {"method": {"name": "rkd"}},
        {"training": {"seed": 1}},
        {"training": {"augmentation": "strong"}},
        {"teachers": [{"architecture": "resnet18", "weights": "train", "training": {"epochs": 2}}]},
        {"resources": {"threads": 1}},
    ]
    assert len({cache_key(), *(cache_key(**change) for change in different)}) == len(different) + 1


def test_a_student_for_deit_is_reported_as_its_variant():
    estimate = resolve(spec(method={"name": "deit"}), DIGITS, {}, threads=2).estimate

    assert estimate["student"]["architecture"] == "deit_tiny_distilled_patch16_224"
    assert estimate["student"]["parameters"] == 26_932


@pytest.mark.parametrize(
    ("student", "training", "expected"),
    [
        ({"architecture": VIT, "arguments": SMALL}, {}, 8),
        ({"architecture": VIT, "arguments": {"patch_size": 8}}, {"image_size": 32}, 32),
        ({"architecture": VIT}, {}, 224),
        ({"architecture": "resnet18"}, {}, 8),
        ({"architecture": "resnet18"}, {"image_size": 16}, 16),
        ({"architecture": VIT, "weights": "mdl_a"}, {}, 8),
        ({"architecture": "resnet18", "weights": "mdl_b"}, {}, 8),
    ],
)
def test_the_image_size_is_the_students_own_or_the_datasets(student, training, expected):
    resolution = resolve(spec(student=student, training=training), DIGITS, {"mdl_a": STORED, "mdl_b": CNN}, threads=2)

    assert resolution.spec.training.image_size == expected
    assert resolution.estimate["student"]["image_size"] == expected


def test_a_teachers_own_size_overrides_the_students():
    stored = {"architecture": VIT, "weights": "train", "arguments": {"img_size": 16, "patch_size": 4, "depth": 1}}
    requested = {"architecture": "resnet18", "weights": "train", "training": {"image_size": 32}}

    assert resolve(spec(teachers=[stored]), DIGITS, {}, threads=2).spec.teachers[0].training.image_size == 16
    assert resolve(spec(teachers=[requested]), DIGITS, {}, threads=2).spec.teachers[0].training.image_size == 32


def student(architecture=VIT, *, method="kd", size=None, **more):
    return {
        "student": {"architecture": architecture, **more},
        "method": {"name": method},
        "training": {"image_size": size},
    }


def teacher(weights, **more):
    return {"teachers": [{"architecture": "resnet18", "weights": weights, **more}]}


@pytest.mark.parametrize(
    ("change", "pointer", "text"),
    [
        (student("vit_tyni"), "/student/architecture", "Did you mean vit_tiny_patch16_224"),
        (student(arguments={"embed_dim": 33, "num_heads": 2}), "/student/arguments/embed_dim", "divisible"),
        (student("halonet_h1", size=64), "/training/image_size", "use 256 (its own size)"),
        (student(arguments={**SMALL, "depth": 0}), "/student/arguments/depth", "at least 1, not 0"),
        (teacher("train", arguments={"layers": [1, 1, 1]}), "/teachers/0/arguments/layers", "cannot run with layers"),
        (student(arguments=SMALL, size=16), "/student/arguments/img_size", "8"),
        (student(size=30), "/student/arguments/patch_size", "16 or 32"),
        (student(arguments={"img_size": 2048}), "/student/arguments/img_size", "1024"),
        (student(weights="job_a"), "/student/weights", "there is no model 'job_a'"),
        (student("resnet18", method="deit"), "/student/architecture", "transformer"),
        (student("swin_tiny_patch4_window7_224", method="deit"), "/student/architecture", "plain ViT"),
        (student("vit_small_patch16_36x1_224", weights="pretrained"), "/student/weights", "no pretrained"),
        (student("gcvit_xxtiny", weights="pretrained"), "/student/weights", "only as a pickle"),
        (teacher("pretrained"), "/teachers/0/weights", "has 1000 classes"),
        (teacher("mdl_z"), "/teachers/0/weights", "there is no model 'mdl_z'"),
        (
            teacher("train", arguments={"drop_path_rate": 1}),
            "/teachers/0/arguments/drop_path_rate",
            "training.drop_path",
        ),
    ],
)
def test_an_invalid_spec_is_refused_with_its_pointer(change, pointer, text):
    resolution = errors_of(**change)

    assert list(resolution) == [pointer]
    assert text in resolution[pointer]


def test_all_errors_are_reported_together():
    resolution = errors_of(
        student={"architecture": "vit_tyni"},
        teachers=[{"architecture": "resnet81", "weights": "train"}],
        dataset=DIGITS.model_copy(update={"num_classes": None, "classes": None, "num_test": 0}),
    )

    assert list(resolution) == ["/dataset", "/student/architecture", "/teachers/0/architecture"]


def test_an_unlabeled_dataset_is_refused():
    unlabeled = DIGITS.model_copy(update={"num_classes": None, "classes": None})

    assert "no labels" in errors_of(dataset=unlabeled)["/dataset"]


def test_a_stored_model_must_match_the_spec():
    models = {"mdl_a": STORED}
    other = {"architecture": VIT, "weights": "mdl_a", "arguments": {"depth": 3}}

    assert "made with depth 2, not 3" in errors_of(models=models, teachers=[other])["/teachers/0/arguments/depth"]
    wrong = {"architecture": "resnet18", "weights": "mdl_a"}
    assert "those of a vit_tiny" in errors_of(models=models, teachers=[wrong])["/teachers/0/architecture"]


@pytest.mark.parametrize("reference", ["mdl_a", "job_a"])
def test_architecture_and_arguments_come_from_the_weights(reference):
    """In the resolved spec, which can be submitted again."""
    given = {"teachers": [{"weights": reference}], "student": {"weights": reference}}
    resolved = resolve(spec(**given), DIGITS, {reference: STORED}, threads=2).spec
    own = {name: value for name, value in SMALL.items() if name != "img_size"}

    assert (resolved.teachers[0].architecture, resolved.teachers[0].arguments) == (VIT, own)
    assert (resolved.student.architecture, resolved.student.arguments) == (VIT, own)
    again = parse_job_spec(json.loads(resolved.model_dump_json()))
    assert resolve(again, DIGITS, {reference: STORED}, threads=2).spec == resolved


def test_an_argument_that_is_null_comes_from_the_weights():
    student = {"weights": "mdl_a", "arguments": {"depth": None}}
    resolved = resolve(spec(student=student), DIGITS, {"mdl_a": STORED}, threads=2).spec

    assert resolved.student.arguments["depth"] == 2


def test_a_stored_vit_teacher_can_run_at_another_size():
    teacher = {"weights": "mdl_a", "arguments": {"img_size": 16}}

    found = resolve(spec(teachers=[teacher]), DIGITS, {"mdl_a": STORED}, threads=2)
    assert found.estimate["teachers"][0]["image_size"] == 16
    assert found.spec.teachers[0].arguments["img_size"] == 16


def test_a_stored_teacher_whose_positions_cannot_be_resampled_keeps_its_size():
    swin = STORED.model_copy(update={"architecture": "swin_tiny_patch4_window7_224", "arguments": {}, "image_size": 56})
    teacher = {"weights": "mdl_a", "arguments": {"img_size": 112}}

    found = errors_of(models={"mdl_a": swin}, teachers=[teacher])
    assert "take images of 56 pixels a side" in found["/teachers/0/arguments/img_size"]


def test_weights_without_a_model_are_refused_without_an_architecture():
    assert "no mdl_x" in errors_of(teachers=[{"weights": "mdl_x"}])["/teachers/0/weights"]


@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [("depth", 24, "lack blocks.12 to blocks.23"), ("embed_dim", 96, "is [576, 192], not [288, 96]")],
)
@pytest.mark.parametrize("role", ["student", "teachers"])
def test_arguments_that_pretrained_weights_do_not_fit_are_refused(role, argument, value, words):
    model = {"architecture": VIT, "weights": "pretrained", "arguments": {"img_size": 32, argument: value}}
    dataset = DIGITS.model_copy(update={"num_classes": 1000, "classes": None})
    found = errors_of(dataset=dataset, **{role: model if role == "student" else [model]})

    pointer = f"/{role if role == 'student' else 'teachers/0'}/arguments/{argument}"
    assert words in found[pointer]


def test_arguments_that_timm_adapts_fit_pretrained_weights():
    student = {"architecture": VIT, "weights": "pretrained", "arguments": {"img_size": 32, "patch_size": 4, "depth": 6}}

    assert resolve(spec(student=student), DIGITS, {}, threads=2).spec.student.arguments["depth"] == 6


def test_a_renamed_architecture_gets_its_new_name():
    student = {"architecture": "vit_tiny_patch16_224_in21k", "weights": "pretrained", "arguments": {"img_size": 32}}
    resolved = resolve(spec(student=student), DIGITS, {}, threads=2).spec

    assert resolved.student.architecture == "vit_tiny_patch16_224.augreg_in21k"


def test_a_teacher_with_the_classes_in_another_order_is_refused():
    turned = STORED.model_copy(update={"classes": tuple("9876543210")})
    stored = {"architecture": VIT, "weights": "mdl_a"}

    assert "another order" in errors_of(models={"mdl_a": turned}, teachers=[stored])["/teachers/0/weights"]


def test_a_stored_cnn_without_a_size_runs_at_the_students():
    stored = {"architecture": "resnet18", "weights": "mdl_b"}
    estimate = resolve(spec(teachers=[stored]), DIGITS, {"mdl_b": CNN}, threads=2).estimate

    assert estimate["teachers"][0]["image_size"] == 8


def test_doubtful_settings_give_warnings():
    dataset = DIGITS.model_copy(update={"num_train": 40})
    named = STORED.model_copy(update={"classes": tuple("abcdefghij")})
    other = STORED.model_copy(update={"num_classes": 3, "arguments": {**STORED.arguments, "num_classes": 3}})
    resolution = resolve(
        spec(
            student={"architecture": VIT, "weights": "mdl_c"},
            teachers=[{"architecture": VIT, "weights": "mdl_a"}],
            training={"batch_size": 64},
        ),
        dataset,
        {"mdl_a": named, "mdl_c": other},
        threads=2,
    )
    plain = resolve(
        spec(
            student={"architecture": "vgg11"},
            teachers=[{"architecture": "resnet18", "weights": "random"}],
            training={"epochs": 20, "drop_path": 0.1, "image_size": 32},
        ),
        DIGITS,
        {},
        threads=2,
    )

    assert [(warning["code"], warning["field"]) for warning in resolution.estimate["warnings"]] == [
        ("batch_size_above_dataset", "/training/batch_size"),
        ("class_names_differ", "/teachers/0/weights"),
        ("gray_images", "/teachers/0/weights"),
        ("head_reinitialized", "/student/weights"),
    ]
    assert [(warning["code"], warning["field"]) for warning in plain.estimate["warnings"]] == [
        ("images_enlarged", "/training/image_size"),
        ("drop_path_unused", "/training/drop_path"),
        ("few_steps", "/training/epochs"),
        ("random_teacher", "/teachers/0/weights"),
        ("teacher_smaller", "/teachers/0/architecture"),
    ]


def test_a_pretrained_teacher_of_the_same_number_of_classes_keeps_its_own_size():
    dataset = DIGITS.model_copy(update={"num_classes": 1000, "classes": None})
    stored = {"architecture": "resnet18.a1_in1k", "weights": "pretrained"}
    estimate = resolve(spec(teachers=[stored]), dataset, {}, threads=2).estimate

    assert estimate["teachers"][0]["image_size"] == catalog.native_image_size("resnet18") == 224


def test_what_is_known_of_networks_is_not_computed_again(monkeypatch):
    """Building a network takes tens of milliseconds, and dominates the time of a request."""
    resolve(spec(), DIGITS, {}, threads=2)
    built, create_model = [], timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **more: built.append(name) or create_model(name, **more))

    resolve(spec(), DIGITS, {}, threads=2)
    assert built == []

    resolve(spec(student={"architecture": VIT, "arguments": {**SMALL, "embed_dim": 80}}), DIGITS, {}, threads=2)
    assert built == [VIT, VIT]  # its profile, and the network that the checks share


POOL = DatasetInfo(channels=1, image_size=8, num_train=2000, num_test=500)


def probe_job(**more):
    return {
        "method": {"name": "attention_probe", "pool": "ds_pool", **more},
        "teachers": [{"architecture": VIT, "arguments": {**SMALL, "embed_dim": 48}, "weights": "train"}],
    }


def test_steps_are_counted_over_the_images_that_the_method_trains_on():
    half = resolve(spec(**probe_job()), DIGITS, {}, threads=2, datasets={"ds_pool": POOL})
    requested = resolve(spec(**probe_job(num_select=640)), DIGITS, {}, threads=2, datasets={"ds_pool": POOL})

    assert half.estimate["total_steps"] == 12 * (1000 // 64 + 1)
    assert requested.estimate["total_steps"] == 12 * 10


@pytest.mark.parametrize(
    ("change", "text"),
    [({"channels": 3}, "3 channels"), ({"num_train": 1}, "train split is 1"), (None, "there is no dataset ds_pool")],
)
def test_an_unusable_pool_is_refused(change, text):
    pools = {} if change is None else {"ds_pool": POOL.model_copy(update=change)}
    with pytest.raises(InvalidSpec) as caught:
        resolve(spec(**probe_job()), DIGITS, {}, threads=2, datasets=pools)

    ((pointer, detail),) = [(error.pointer, error.detail) for error in caught.value.errors]
    assert pointer == "/method/pool"
    assert text in detail


def test_more_images_than_the_pool_has_cannot_be_selected():
    with pytest.raises(InvalidSpec, match="/method/num_select"):
        resolve(spec(**probe_job(num_select=3000)), DIGITS, {}, threads=2, datasets={"ds_pool": POOL})


def test_pruning_needs_a_student_with_weights():
    requested = {"method": {"name": "uvc"}, "teachers": []}

    assert "weights" in errors_of(**requested)["/student/weights"]
    student = {"architecture": VIT, "arguments": SMALL, "weights": "mdl_1"}
    resolution = resolve(spec(**requested, student=student), DIGITS, {"mdl_1": STORED}, threads=2)
    assert resolution.estimate["student"]["architecture"] == "potstill_vit"


UNLABELED = DIGITS.model_copy(update={"num_classes": None, "classes": None})
LABEL_FREE = {"method": {"name": "feature"}, "teachers": [{"architecture": VIT, "weights": "mdl_1"}]}
FOUNDATION = STORED.model_copy(update={"num_classes": 700, "arguments": {**STORED.arguments, "num_classes": 700}})


@pytest.mark.parametrize("dataset", [DIGITS, UNLABELED])
def test_a_label_free_student_has_no_classifier_and_its_teacher_may_have_any_classes(dataset):
    resolution = resolve(spec(**LABEL_FREE), dataset, {"mdl_1": FOUNDATION}, threads=2)
    labelled = resolve(spec(method={"name": "scratch"}, teachers=[]), DIGITS, {}, threads=2)

    assert resolution.estimate["student"]["parameters"] == labelled.estimate["student"]["parameters"] - 10 * (32 + 1)
    assert [warning["code"] for warning in resolution.estimate["warnings"]] == ["few_steps", "gray_images"]


def test_a_teacher_cannot_be_trained_without_labels():
    requested = {**LABEL_FREE, "teachers": [{"architecture": "resnet18", "weights": "train"}]}

    assert "no labels" in errors_of(dataset=UNLABELED, **requested)["/teachers/0/weights"]


KD = {"teachers": [{"architecture": VIT, "weights": "mdl_1"}]}


def test_a_dataset_without_labels_takes_the_classes_of_the_teacher():
    requested = {**KD, "method": {"name": "kd", "alpha": 1.0}}
    of_teacher = resolve(spec(**requested), UNLABELED, {"mdl_1": FOUNDATION}, threads=2)
    labeled = resolve(spec(method={"name": "scratch"}, teachers=[]), DIGITS, {}, threads=2)

    extra = of_teacher.estimate["student"]["parameters"] - labeled.estimate["student"]["parameters"]
    assert extra == (700 - 10) * (32 + 1)  # the head of a student of width 32


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ({"name": "kd"}, "set method.alpha to 1, or use a dataset with classes"),
        ({"name": "dist"}, "set method.label_weight to 0, or"),
        ({"name": "fitnets", "logits": "dkd"}, "set method.label_weight to 0 and method.logits to kd, or"),
        ({"name": "fitnets", "label_weight": 0.0, "logits": "none"}, "set method.logits to kd, or"),
        ({"name": "dkd", "label_weight": 0.0}, "use a dataset with classes, or method kd with alpha 1"),
    ],
    ids=str,
)
def test_a_method_that_reads_labels_is_refused_without_them_and_the_parameters_are_named(method, words):
    with pytest.raises(InvalidSpec) as caught:
        resolve(spec(**KD, method=method), UNLABELED, {"mdl_1": FOUNDATION}, threads=2)

    assert words in {error.pointer: error.detail for error in caught.value.errors}["/dataset"]


def test_without_labels_a_teacher_with_random_weights_gives_no_classes():
    requested = {"teachers": [{"architecture": VIT, "weights": "random"}], "method": {"name": "kd", "alpha": 1.0}}

    assert "classes are those of these weights" in errors_of(dataset=UNLABELED, **requested)["/teachers/0/weights"]


def test_without_labels_all_teachers_have_the_same_classes():
    requested = spec(
        method={"name": "kd", "alpha": 1.0},
        teachers=[{"architecture": VIT, "weights": "mdl_1"}, {"architecture": VIT, "weights": "mdl_2"}],
    )

    with pytest.raises(InvalidSpec, match="10 classes and the first teacher has 700"):
        resolve(requested, UNLABELED, {"mdl_1": FOUNDATION, "mdl_2": STORED}, threads=2)


def test_held_out_images_are_not_counted_in_the_steps():
    requested = {"teachers": [], "training": {"epochs": 2, "batch_size": 10}}
    few = DIGITS.model_copy(update={"num_train": 100})

    def steps(**params):
        return resolve(spec(**requested, method={"name": "mutual", **params}), few, {}, threads=2).estimate[
            "total_steps"
        ]

    assert steps(hold_out=0.1) == 2 * 9
    assert steps() == 2 * 10


def test_an_invalid_peer_is_refused():
    requested = {"teachers": [], "method": {"name": "mutual", "peer": {"architecture": "resnet10", "arguments": {}}}}

    assert "resnet10t" in errors_of(**requested)["/method/peer/architecture"]


def on_devices(devices, accelerator="cpu", **change):
    return {"resources": {"devices": devices, "accelerator": accelerator}, **change}


def test_a_job_for_several_devices_is_unchanged():
    resolution = resolve(spec(**on_devices(2)), DIGITS, {}, threads=4)

    assert (resolution.spec.resources.devices, resolution.spec.resources.threads) == (2, 4)
    assert resolve(resolution.spec, DIGITS, {}, threads=9) == resolution


def test_a_method_that_compares_samples_requires_one_device():
    assert (
        "rkd with these parameters compares the samples"
        in errors_of(**on_devices(2, method={"name": "rkd"}))["/resources/devices"]
    )
    feature = {"name": "fitnets", "logits": "dist"}
    assert "set devices to 1" in errors_of(**on_devices(2, method=feature))["/resources/devices"]
    assert resolve(spec(**on_devices(1, method=feature)), DIGITS, {}, threads=2)


def test_a_method_that_compares_samples_refuses_gradient_accumulation():
    parts = {"batch_size": 8, "gradient_accumulation": 2}
    detail = errors_of(method={"name": "rkd"}, training=parts)["/training/gradient_accumulation"]

    assert "sees only one of 2 parts at a time" in detail
    assert resolve(spec(method={"name": "scratch"}, teachers=[], training=parts), DIGITS, {}, threads=2)


def test_gradient_accumulation_lowers_the_estimated_memory_and_not_the_steps():
    def estimate(parts, **more):
        training = {"batch_size": 512, "epochs": 1, "gradient_accumulation": parts, **more}
        return resolve(spec(method={"name": "scratch"}, teachers=[], training=training), DIGITS, {}, threads=2).estimate

    one, eight = estimate(1), estimate(8)

    assert one["total_steps"] == eight["total_steps"]
    assert eight["memory_bytes"] < one["memory_bytes"]
    assert eight["seconds"] >= one["seconds"]
    assert estimate(1, optimizer="sgd")["memory_bytes"] < one["memory_bytes"]


def test_every_device_needs_two_images_of_every_batch():
    assert resolve(spec(**on_devices(4, training={"batch_size": 9, "epochs": 1})), DIGITS, {}, threads=2)
    detail = errors_of(**on_devices(4, training={"batch_size": 7, "epochs": 1}))["/resources/devices"]

    assert "a batch has only 6 images" in detail


def warnings(**change):
    estimate = resolve(spec(**change), DIGITS, {}, threads=2).estimate
    return " ".join(warning["message"] for warning in estimate["warnings"])


def test_effects_of_several_devices_give_warnings():
    cnn = {"architecture": "resnet10t"}
    assert "batch norms see only the part" in warnings(**on_devices(2, student=cnn))
    assert "on a CPU batch norms see only the part" in warnings(**on_devices(2, "auto", student=cnn))
    assert "batch norms" not in warnings(**on_devices(2, "cuda", student=cnn))
    assert "batch norms" not in warnings(**on_devices(2))
    assert "trained on one device" in warnings(**on_devices(2))
    assert "devices" not in warnings()


@pytest.fixture
def no_onnx(monkeypatch):
    """Make the ViT one of the architectures that have no ONNX file."""
    monkeypatch.setattr(onnx_file, "_known_failures", lambda: {VIT: "no operator for this"})


def test_a_format_that_cannot_be_written_is_refused_with_the_fix(no_onnx):
    detail = errors_of(export=["safetensors", "onnx"])["/export"]

    assert detail == (
        f"onnx: {VIT} cannot be expressed in ONNX: no operator for this; leave onnx out of export, or take another "
        "student, such as vit_small_patch16_224"
    )


def test_a_default_format_that_cannot_be_written_is_left_out_with_a_warning(no_onnx):
    resolution = resolve(spec(), DIGITS, {}, threads=2)

    assert resolution.spec.export == ("safetensors",)
    (warning,) = (w for w in resolution.estimate["warnings"] if w["field"] == "/export")
    assert warning["code"] == "export_failed"
    assert "no operator for this" in warning["message"]
    assert resolve(resolution.spec, DIGITS, {}, threads=2).spec == resolution.spec


def test_a_student_beyond_two_gigabytes_has_no_onnx_file():
    large = {"architecture": VIT, "arguments": {**SMALL, "embed_dim": 4096, "depth": 3, "num_heads": 64}}

    assert (
        "bytes exceed the"
        in errors_of(student=large, export=["onnx"], teachers=[], method={"name": "scratch"})["/export"]
    )
