"""One device has no requirements; test_resolver.py tests several devices."""

from core.resolve.device_checks import device_errors, device_warnings
from core.spec import parse_job_spec


def test_one_device_has_neither_errors_nor_warnings():
    spec = parse_job_spec({"dataset": "d", "student": {"architecture": "vit"}, "method": {"name": "scratch"}})

    assert device_errors(spec, method=None, num_images=1) == []
    assert device_warnings(spec, student=None, method=None) == []
