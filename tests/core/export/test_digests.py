"""Digests in the report."""

import importlib.metadata

from core.export.digests import digests


def test_the_code_has_the_version_of_the_service_and_needs_no_client(tmp_path, monkeypatch):
    installed = importlib.metadata.version

    def version(name):
        if name == "potstill":  # the client, which no image of the service has
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    student = tmp_path / "model.safetensors"
    student.write_bytes(b"weights")
    found = digests(
        spec={}, dataset="0", further_datasets={}, teachers=[], baseline=None, student=student, environment={}
    )

    assert found["code"]["version"] == installed("potstill-server")
