"""Content of a test file."""

import hashlib
import os

CONTENT = os.urandom(3_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
KEY = "jobs/job_1/a1/model.safetensors"
