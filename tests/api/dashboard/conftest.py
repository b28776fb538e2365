import pytest


@pytest.fixture
def make_job():
    """Build a job document of the public API."""

    def make(**changes):
        job = {
            "id": "job_01kb2m3n4p5q6r7s8t9vwxyz01",
            "name": "deit on digits",
            "status": "running",
            "terminal": False,
            "next_actions": ["cancel", "pause", "stop"],
            "pending_action": None,
            "stage": "distill",
            "stages": [
                {"name": "prepare", "started_at": "t", "finished_at": "t", "seconds": 1.5},
                {"name": "teacher", "started_at": "t", "finished_at": "t", "seconds": 30.0},
                {"name": "distill", "started_at": "t", "finished_at": None, "seconds": None},
            ],
            "progress": {"fraction": 0.5, "step": 10, "total_steps": 20, "epoch": 1, "eta_seconds": 3.0},
            "spec": {
                "dataset": "ds_1",
                "teachers": [{"architecture": "resnet18", "weights": "train"}],
                "student": {"architecture": "vit_tiny_patch16_224", "weights": "random"},
                "method": {"name": "deit", "distillation_type": "hard", "alpha": 0.5},
                "training": {"epochs": 2, "image_size": 28},
            },
            "attempt": 1,
            "created_at": "2026-11-24T08:00:00.000Z",
            "started_at": "2026-11-24T08:00:01.000Z",
            "finished_at": None,
            "error": None,
            "warnings": [],
            "metadata": {},
            "result": None,
        }
        return job | changes

    return make
