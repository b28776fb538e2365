import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import DropPath

from core.errors import InvalidSpec, SpecCannotRun, WeightsMismatch, WeightsUnavailable
from core.models.build import accepts_drop_path, build_student, build_teacher, stored_models
from core.models.plan import plan_student, plan_teacher
from core.models.preprocessing import plain_preprocessing
from core.models.student_variants import StudentVariant
from core.models.weights import save_folder
from core.spec import StudentSpec, TeacherSpec
from core.spec.info import InputInfo

DISTILLED = StudentVariant("distilled")
INPUTS = InputInfo(num_classes=10, channels=1, image_size=8)
VIT = "vit_tiny_patch16_224"


@pytest.fixture
def student(tiny_vit):
    return StudentSpec(architecture=VIT, arguments=tiny_vit)


@pytest.fixture
def stored(student, tmp_path):
    """A stored model for 10 classes of gray 8 px images; returns its folder and module."""
    built = build(student)
    save_folder(
        built.module,
        tmp_path / "stored",
        architecture=built.architecture,
        arguments=built.arguments,
        preprocessing=built.preprocessing,
    )
    return tmp_path / "stored", built.module


def build(spec, info=INPUTS, size=8, seed=0, variant=None, folders=None, **options):
    plan = plan_student(spec, info, image_size=size, models=stored_models(spec, folders or {}))
    torch.manual_seed(seed)
    return build_student(plan.with_variant(variant), folders=folders or {}, **options)


def build_as_teacher(spec, info=INPUTS, size=8, folders=None, **options):
    plan = plan_teacher(spec, info, image_size=size, models=stored_models(spec, folders or {}))
    return build_teacher(plan, num_classes=info.num_classes, folders=folders or {}, **options)


def test_a_random_student_has_the_datasets_classes_channels_and_size(student):
    built = build(student)

    assert built.architecture == VIT
    assert built.num_classes == 10
    assert built.arguments["in_chans"] == 1
    assert built.preprocessing == plain_preprocessing(image_size=8, channels=1)
    assert built.module.training
    assert built(torch.rand(3, 1, 8, 8)).shape == (3, 10)
    assert built(torch.rand(3, 3, 20, 20)).shape == (3, 10)


@pytest.mark.parametrize("variant", [None, DISTILLED])
def test_the_same_seed_gives_the_same_bits(student, variant):
    first, second = build(student, variant=variant), build(student, variant=variant)
    other = build(student, variant=variant, seed=1)

    assert all(torch.equal(a, b) for a, b in zip(first.module.parameters(), second.module.parameters(), strict=True))
    assert not torch.equal(first.module.pos_embed, other.module.pos_embed)


def test_the_distilled_variant_has_two_heads(student):
    built = build(student, variant=DISTILLED)
    built.module.set_distilled_training(True)

    assert built.architecture == "deit_tiny_distilled_patch16_224"
    assert [logits.shape for logits in built(torch.rand(3, 1, 8, 8))] == [(3, 10), (3, 10)]
    again = timm.create_model(built.architecture, **built.arguments)
    assert again.state_dict().keys() == built.module.state_dict().keys()


def test_a_cnn_has_no_distilled_variant():
    with pytest.raises(InvalidSpec, match="ResNet"):
        build(StudentSpec(architecture="resnet18"), variant=DISTILLED)


@pytest.mark.parametrize("variant", [None, DISTILLED])
def test_drop_path_is_set_but_not_part_of_the_arguments(student, variant):
    built = build(student, variant=variant, drop_path=0.2)

    assert built.module.blocks[1].drop_path1.drop_prob == pytest.approx(0.2)
    assert "drop_path_rate" not in built.arguments


SWIN = {"patch_size": 2, "window_size": 4, "embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2]}


def dropped(module):
    return {part.drop_prob for part in module.modules() if isinstance(part, DropPath)}


def test_drop_path_0_overrides_timms_default(tmp_path):
    spec = StudentSpec(architecture="swin_tiny_patch4_window7_224", arguments=SWIN)
    built = build(spec, size=16)
    save_folder(
        built.module,
        tmp_path,
        architecture=built.architecture,
        arguments=built.arguments,
        preprocessing=built.preprocessing,
    )

    again = build(spec.model_copy(update={"weights": "mdl_a"}), size=16, folders={"mdl_a": tmp_path})

    assert dropped(timm.create_model(spec.architecture, img_size=16, **SWIN)) != {0.0}
    assert dropped(built.module) == dropped(again.module) == {0.0}


def test_drop_path_is_ignored_by_architectures_without_it():
    assert not accepts_drop_path("vgg11", {"num_classes": 10})
    assert build(StudentSpec(architecture="vgg11"), size=32, drop_path=0.2).num_classes == 10


def test_invalid_arguments_are_refused_with_timms_message():
    with pytest.raises(InvalidSpec, match="divisible by num_heads"):
        build(StudentSpec(architecture=VIT, arguments={"embed_dim": 33, "num_heads": 2}))


def test_a_student_starts_from_stored_weights(stored, tiny_vit):
    folder, module = stored
    spec = StudentSpec(architecture=VIT, weights="mdl_a")
    built = build(spec, folders={"mdl_a": folder}, drop_path=0.1)

    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), built.module.parameters(), strict=True))
    assert built.arguments == {**tiny_vit, "num_classes": 10, "in_chans": 1, "img_size": 8}


def test_stored_weights_are_adapted_to_another_dataset(stored):
    folder, module = stored
    info = InputInfo(num_classes=3, channels=3, image_size=16)
    spec = StudentSpec(architecture=VIT, weights="mdl_a")
    built = build(spec, info, 16, variant=DISTILLED, folders={"mdl_a": folder})

    assert built.architecture == "deit_tiny_distilled_patch16_224"
    assert built(torch.rand(2, 3, 16, 16)).shape == (2, 3)
    assert torch.equal(built.module.blocks[1].attn.qkv.weight, module.blocks[1].attn.qkv.weight)
    assert torch.equal(built.module.dist_token, module.cls_token)


@pytest.mark.parametrize(
    ("spec", "pointer"),
    [
        ({"architecture": "deit_tiny_patch16_224"}, "/architecture"),
        ({"architecture": VIT, "arguments": {"depth": 3}}, "/arguments/depth"),
        ({"architecture": VIT, "arguments": {"mlp_ratio": 2.0}}, "/arguments/mlp_ratio"),
    ],
)
def test_a_spec_that_contradicts_its_weights_is_refused(stored, spec, pointer):
    with pytest.raises(InvalidSpec, match="the weights mdl_a") as caught:
        build(StudentSpec(weights="mdl_a", **spec), folders={"mdl_a": stored[0]})

    assert caught.value.errors[0].pointer == pointer


def test_missing_weights_are_unavailable():
    with pytest.raises(WeightsUnavailable, match="job_b"):
        build_as_teacher(TeacherSpec(architecture=VIT, weights="job_b"))


def test_a_teacher_for_training_is_built_from_the_dataset():
    spec = TeacherSpec(architecture="resnet18", weights="train")
    built = build_as_teacher(spec, size=16)

    assert not built.module.training
    assert built.preprocessing.image_size == 16
    assert built(torch.rand(2, 1, 16, 16)).shape == (2, 10)


def test_a_stored_teacher_keeps_its_own_size_and_channels(stored):
    folder, module = stored
    info = InputInfo(num_classes=10, channels=3, image_size=64)
    spec = TeacherSpec(architecture=VIT, weights="mdl_a")
    built = build_as_teacher(spec, info, 64, folders={"mdl_a": folder})
    images = torch.rand(2, 3, 8, 8)
    gray = (images * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)

    assert built.preprocessing.image_size == 8
    assert torch.allclose(module.eval()((gray - 0.5) / 0.5), built(images), atol=1e-6)


def test_a_teacher_with_another_number_of_classes_is_refused(stored):
    spec = TeacherSpec(architecture=VIT, weights="mdl_a")
    with pytest.raises(SpecCannotRun, match=r"has 10 classes and the dataset has 7"):
        build_as_teacher(spec, InputInfo(7, 1, 8), folders={"mdl_a": stored[0]})


def test_a_pretrained_teacher_is_loaded_unchanged_from_the_hub(hub):
    folder, model = hub
    spec = TeacherSpec(architecture="test_vit.r160_in1k", weights="pretrained")
    built = build_as_teacher(spec, InputInfo(1000, 1, 28), 28, hub=folder)
    images = torch.rand(2, 3, 160, 160)
    mean, std = (torch.tensor(model.pretrained_cfg[k]).view(1, 3, 1, 1) for k in ("mean", "std"))

    assert built.preprocessing.image_size == 160
    assert torch.allclose(model((images - mean) / std), built(images), atol=1e-5)
    assert built(torch.rand(2, 1, 28, 28)).shape == (2, 1000)


def test_a_pretrained_or_stored_teacher_runs_at_another_size(hub, stored):
    """timm resamples the position embedding; all other weights are unchanged."""
    folder, model = hub
    spec = TeacherSpec(architecture="test_vit.r160_in1k", weights="pretrained", arguments={"img_size": 96})
    pretrained = build_as_teacher(spec, InputInfo(1000, 3, 28), 28, hub=folder)
    spec = TeacherSpec(architecture=VIT, weights="mdl_a", arguments={"img_size": 16})
    resized = build_as_teacher(spec, InputInfo(10, 1, 8), 8, folders={"mdl_a": stored[0]})

    assert pretrained.preprocessing.image_size == 96
    assert pretrained(torch.rand(2, 3, 28, 28)).shape == (2, 1000)
    assert torch.equal(pretrained.module.head.weight, model.head.weight)
    assert resized.preprocessing.image_size == 16
    assert resized.module.pos_embed.shape[1] == 1 + 8 * 8
    assert torch.equal(resized.module.head.weight, stored[1].head.weight)


def test_a_pretrained_student_gets_a_new_head_and_the_datasets_channels(hub):
    folder, model = hub
    spec = StudentSpec(architecture="test_vit", weights="pretrained")
    built = build(spec, size=64, variant=DISTILLED, hub=folder)

    assert built(torch.rand(2, 1, 64, 64)).shape == (2, 10)
    assert torch.equal(built.module.blocks[0].mlp.fc1.weight, model.blocks[0].mlp.fc1.weight)
    assert len(built.preprocessing.mean) == 1


def test_weights_of_another_shape_do_not_fit(stored):
    folder, module = stored
    state = module.state_dict()
    save_file({**state, "blocks.0.attn.qkv.weight": torch.zeros(2, 2)}, folder / "model.safetensors")

    with pytest.raises(WeightsMismatch, match="do not fit"):
        build(StudentSpec(architecture=VIT, weights="mdl_a"), folders={"mdl_a": folder})
