"""Pretrained weights from the Hugging Face hub, or from a folder in the form of its cache.

The folder makes machines without internet work: fill a cache elsewhere (``HF_HUB_CACHE`` or
``hf download --cache-dir``), carry it over. What is in it is used without asking the hub. Only
safetensors are read, never a pickle. A hub that cannot be reached is said within seconds: the hub's
own client would try again for three quarters of a minute.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
from timm.models import get_pretrained_cfg

from core.errors import WeightsUnavailable

_REACH_SECONDS = 5.0
_SAFE_NAMES = {
    "pytorch_model.bin": "model.safetensors",
    "open_clip_pytorch_model.bin": "open_clip_model.safetensors",
}


def pretrained_weights(name: str, *, hub: Path | None = None) -> Path:
    """The safetensors file with the pretrained weights of ``name`` (a tag may follow a dot).

    ``hub`` is a folder in the form of the hub's cache, by default the user's own.

    Raises:
        WeightsUnavailable: timm knows of none, they exist only as a pickle, or the hub cannot be reached.
    """
    cfg = get_pretrained_cfg(name)
    if cfg is None or not cfg.hf_hub_id:
        raise WeightsUnavailable(f"There are no pretrained weights for {name} on the hub; use random, or upload yours.")
    if cfg.custom_load:
        raise _only_unsafe(name)
    repo, _, revision = cfg.hf_hub_id.partition("@")
    files = _safe_files(cfg.hf_hub_filename)
    if not files:
        raise _only_unsafe(name)
    for file in files:
        cached = try_to_load_from_cache(repo, file, cache_dir=hub, revision=revision or None)
        if isinstance(cached, str):
            return Path(cached)
    return _download(name, repo, revision or None, files, hub)


def _safe_files(filename: str | None) -> list[str]:
    if filename is None:
        return ["model.safetensors"]
    if filename.endswith(".safetensors"):
        return [filename]
    if filename in _SAFE_NAMES:
        return [_SAFE_NAMES[filename]]
    return [f"{filename.removesuffix('.bin')}.safetensors"] if filename.endswith(".bin") else []


def _download(name: str, repo: str, revision: str | None, files: Sequence[str], hub: Path | None) -> Path:
    place = f"{constants.ENDPOINT}/{repo}"
    fix = "fill the hub's cache on this machine, upload the weights as a model, or use random"
    if constants.is_offline_mode():
        raise WeightsUnavailable(f"The weights of {name} are not in the hub's cache and HF_HUB_OFFLINE is set; {fix}.")
    if not _reachable(constants.ENDPOINT):
        raise WeightsUnavailable(f"The weights of {name} are at {place}, which cannot be reached from here; {fix}.")
    for file in files:
        try:
            return Path(hf_hub_download(repo, file, revision=revision, cache_dir=hub))
        except LocalEntryNotFoundError as error:  # the connection was lost on the way
            raise WeightsUnavailable(f"Downloading {place} failed: {error}; {fix}.") from error
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError) as error:
            raise WeightsUnavailable(f"Downloading {place} failed: {error}; {fix}.") from error
    raise _only_unsafe(name)


def _reachable(endpoint: str) -> bool:
    request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310 - the hub's own https endpoint
    try:
        with urllib.request.urlopen(request, timeout=_REACH_SECONDS):  # noqa: S310
            return True
    except urllib.error.HTTPError:
        return True  # it answered; what it thinks of the request is the download's business
    except OSError:
        return False


def _only_unsafe(name: str) -> WeightsUnavailable:
    return WeightsUnavailable(
        f"The pretrained weights of {name} exist only in a form that is not read here (a pickle or a foreign "
        "format); convert them to safetensors and upload them, or use another tag."
    )
