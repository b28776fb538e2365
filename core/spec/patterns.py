"""Patterns of text fields, each with the words that an error uses for it."""

from __future__ import annotations

from typing import Final

_HUB_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
HUB_MODEL = rf"^{_HUB_NAME}/{_HUB_NAME}$"
HUB_DATASET = rf"^{_HUB_NAME}(/{_HUB_NAME})?$"
HUB_REVISION = r"^[A-Za-z0-9_][A-Za-z0-9_./-]*$"
S3_URL = r"^s3://[a-z0-9][a-z0-9.-]{1,62}(/[^?#\\]*)?$"
LICENSE_TAG = r"^[a-z0-9][a-z0-9.-]*$"
SHA256 = r"^[0-9a-f]{64}$"
NO_NUL = r"^[^\x00]*$"  # databases reject NUL characters
NOT_BLANK = r"\S"

PATTERN_MESSAGES: Final = {
    HUB_MODEL: "must be owner/name, such as acme/deit-pets",
    HUB_DATASET: "must be owner/name, such as uoft-cs/cifar10",
    HUB_REVISION: "must be a branch, tag or commit, such as main",
    S3_URL: "must be s3://bucket/key, with 2 to 63 lower-case letters, digits, dots and hyphens as the bucket",
    LICENSE_TAG: "must be lower-case letters, digits, dots and hyphens, such as apache-2.0",
    SHA256: "must be 64 lower-case hexadecimal digits",
    NO_NUL: "must have no NUL character",
    NOT_BLANK: "must not be blank",
}
