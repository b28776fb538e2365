"""One device asks nothing; what several need is tested where specs are resolved (test_inspection.py)."""

from core.resolve.device_checks import device_errors, device_warnings
from core.spec import parse_job_spec


def test_one_device_is_never_refused_and_has_nothing_to_say():
    spec = parse_job_spec({"dataset": "d", "student": {"architecture": "vit"}, "method": {"name": "scratch"}})

    assert device_errors(spec, method=None, num_pictures=1) == []
    assert device_warnings(spec, student=None, method=None) == []
