from core.export.card import model_card


def card(spec, student, dataset, result):
    return model_card(
        spec=spec, student=student, dataset=dataset, result=result, threads=2, formats=("safetensors", "onnx")
    )


def test_the_card_says_what_was_measured(spec, student, dataset, result):
    text = card(spec, student, dataset, result)

    assert "| student | 50.00 % | 100.00 % | 14,000 | 0.0005 | 0.06 | 0.25 |" in text
    assert "| teacher 0 | 75.00 % |" in text
    assert "decide alike on 87.50 %" in text
    assert "300 images" in text
    assert "fingerprint `abababababababab`" in text
    assert "`vit_tiny_patch16_224` with a distillation token" in text


def test_names_from_outside_carry_no_markup(spec, student, dataset, result):
    text = card(spec.model_copy(update={"name": "x\n# y <script>"}), student, {**dataset, "name": "`a`\n|b|"}, result)

    assert "# x # y ‹script>" in text
    assert "'a' /b/ (fingerprint" in text


def test_a_student_without_teacher_has_no_line_for_one(spec, student, dataset, result):
    alone = {**result, "teachers": [], "agreement": None}
    text = card(spec.model_copy(update={"teachers": ()}), student, dataset, alone)

    assert "teacher" not in text.split("## Training")[0]
    assert "decide alike" not in text
