from core.export.card import model_card
from core.spec import TeacherSpec


def card(spec, student, dataset, result):
    return model_card(
        spec=spec, student=student, dataset=dataset, result=result, threads=2, formats=("safetensors", "onnx")
    )


def test_the_card_has_the_metrics(spec, student, dataset, result):
    text = card(spec, student, dataset, result)

    assert "| student | 50.00 % | 100.00 % | 14,000 | 0.0005 | 0.06 | 0.25 |" in text
    assert "| teacher 0 | 75.00 % |" in text
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
