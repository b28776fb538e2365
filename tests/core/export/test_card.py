from core.export.card import model_card
from core.spec import TeacherSpec
from core.spec.exports import export_options


def card(spec, student, dataset, result, receipts=None):
    return model_card(spec=spec, student=student, dataset=dataset, result=result, threads=2, receipts=receipts or {})


def test_the_card_has_the_metrics(spec, student, dataset, result):
    text = card(spec, student, dataset, result)

    assert "| student | 50.00 % | 100.00 % | 14,000 | 0.0005 | 0.06 | 0.25 |" in text
    assert "| teacher | 75.00 % |" in text
    assert "predict the same class for 87.50 %" in text
    assert "300 images" in text
    assert "fingerprint `abababababababab`" in text
    assert "`vit_tiny_patch16_224` with a distillation token" in text


def test_uploaded_names_lose_their_markup(spec, student, dataset, result):
    text = card(spec.model_copy(update={"name": "x\n# y <script>"}), student, {**dataset, "name": "`a`\n|b|"}, result)

    assert "# x # y ‹script>" in text
    assert "'a' /b/ (fingerprint" in text


def test_without_a_teacher_the_table_has_no_teacher_row(spec, student, dataset, result):
    without_teacher = {**result, "teachers": [], "agreement": None}
    text = card(spec.model_copy(update={"teachers": ()}), student, dataset, without_teacher)

    assert "teacher" not in text.split("## Training")[0]
    assert "predict the same class" not in text


def test_the_card_lists_the_licenses_of_pretrained_weights(spec, student, dataset, result):
    name = "vit_small_patch16_dinov3.lvd1689m"
    teacher = TeacherSpec(architecture=name, weights="pretrained")
    licensed = spec.model_copy(update={"teachers": (teacher,)})

    assert f"`{name}`: `dinov3-license`" in card(licensed, student, dataset, result)
    assert "## Licenses" not in card(spec, student, dataset, result)
    assert "License of the dataset: `cc-by-4.0`" in card(spec, student, {**dataset, "license": "cc-by-4.0"}, result)


def test_the_card_has_the_receipts_and_the_input_of_each_graph(spec, student, dataset, result):
    measured = {
        "top1": 0.75,
        "evaluated_images": 300,
        "logits": {"max_difference": 2e-7},
        "latency_ms": {"1": 0.5, "32": 4.0},
        "size_bytes": 1_500_000,
    }
    raw = export_options("onnx").model_copy(update={"preprocessing": True, "precision": "fp16"})
    text = card(spec, student, dataset, result, {export_options("onnx"): measured, raw: measured | {"top1": None}})

    assert "| `model.onnx` | 75.00 % | 2e-07 | 0.50 | 4.00 | 1.50 | ONNX" in text
    assert "| `model.fp16.onnx` | — |" in text
    assert "`model.onnx` takes **normalized** `images`, float32 of shape `(batch, 1, 8, 8)`" in text
    assert "with mean [0.5] and std [0.5]" in text
    assert "`model.fp16.onnx` takes `images`, **uint8 pixels in 0…255**" in text
