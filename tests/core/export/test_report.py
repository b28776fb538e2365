import json

import torch

from core.export.report import build_report
from core.spec import JobSpec


def test_the_report_has_everything_to_repeat_the_run(spec, dataset, result):
    report = json.loads(
        json.dumps(
            build_report(
                spec=spec, dataset=dataset, result=result, details={"x": 1}, stages={"distill": 1.5}, warnings=[]
            )
        )
    )

    assert JobSpec.model_validate(report["spec"]) == spec
    assert report["kind"] == "classifier"
    assert report["licenses"] == {}
    assert report["seeds"] == {"student": 0, "teacher-0": 7}
    assert report["dataset"]["fingerprint"] == dataset["fingerprint"]
    assert report["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert report["machine"]["threads"] == 1
    assert report["result"] == result
    assert report["stages"] == {"distill": 1.5}
