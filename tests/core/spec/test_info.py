import subprocess
import sys

import pytest
from pydantic import ValidationError

from core.spec.info import DatasetInfo, InputInfo, ModelInfo, Normalization


def test_dataset_info_survives_a_round_trip_through_json():
    info = DatasetInfo(num_classes=2, classes=("a", "b"), channels=3, image_size=32, num_train=8, num_test=2)

    assert DatasetInfo.model_validate_json(info.model_dump_json()) == info
    assert info.input_info() == InputInfo(num_classes=2, channels=3, image_size=32)


def test_model_info_survives_a_round_trip_through_json():
    info = ModelInfo(
        architecture="resnet18",
        arguments={"num_classes": 2},
        num_classes=2,
        channels=3,
        parameters=11,
        size_bytes=44,
        normalization=Normalization(mean=(0.5,), std=(0.5,)),
    )

    assert ModelInfo.model_validate_json(info.model_dump_json()) == info
    assert info.image_size is None


@pytest.mark.parametrize("std", [(0.0,), (-1.0,), ()])
def test_standard_deviations_are_positive(std):
    with pytest.raises(ValidationError):
        Normalization(mean=(0.5,), std=std)


def test_info_and_headers_do_not_import_torch():
    code = "import sys, core.spec.info, core.models.safetensors_header; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"
