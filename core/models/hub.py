"""Pretrained weights from the Hugging Face Hub, or from a folder in the layout of its cache.

The folder supports machines without internet access: fill a cache elsewhere (``HF_HUB_CACHE`` or
``hf download --cache-dir``) and copy it. Cached files are used without a request to the Hub. Only safetensors are read,
never a pickle. An unreachable Hub is reported within seconds: the Hub's own client would retry for 45 seconds.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
from timm.models import get_pretrained_cfg

from core.errors import HubUnreachable, WeightsUnavailable
from core.models import catalog

_CONNECT_SECONDS = 5.0
_TEMPORARY = frozenset({408, 429})  # of the HTTP status codes of clients' errors
_SAFE_NAMES = {
    "pytorch_model.bin": "model.safetensors",
    "open_clip_pytorch_model.bin": "open_clip_model.safetensors",
}


def pretrained_weights(name: str, *, hub: Path | None = None) -> Path:
    """Return the safetensors file with the pretrained weights of ``name``, which may have a tag after a dot.

    ``hub`` is a folder in the layout of the Hub's cache, by default the user's cache.

    Raises:
        WeightsUnavailable: timm has none, they exist only as a pickle, or the Hub cannot be reached.
    """
    if not catalog.has_pretrained(name):
        reason = catalog.no_weights_reason(name)
        raise WeightsUnavailable(f"{reason[0].upper()}{reason[1:]}.", extra={"architecture": name})
    cfg = get_pretrained_cfg(name)
    # timm's `custom_load` describes the original .npz file; the Hub has the converted tensors.
    repo, _, revision = cfg.hf_hub_id.partition("@")
    files = _safe_files(cfg.hf_hub_filename)
    for file in files:
        cached = try_to_load_from_cache(repo, file, cache_dir=hub, revision=revision or None)
        if isinstance(cached, str):
            return Path(cached)
    return _download(name, repo, revision or None, files, hub)


def _safe_files(filename: str | None) -> list[str]:
    if filename is None:
        return [catalog.SAFETENSORS_NAME]
    if filename.endswith(".safetensors"):
        return [filename]
    if filename in _SAFE_NAMES:
        return [_SAFE_NAMES[filename]]
    return [f"{filename.removesuffix('.bin')}.safetensors"]


def _download(name: str, repo: str, revision: str | None, files: Sequence[str], hub: Path | None) -> Path:
    url = f"{constants.ENDPOINT}/{repo}"
    fix = "fill the hub's cache on this machine, upload the weights as a model, or use random"

    def unreachable(problem: str) -> HubUnreachable:
        return HubUnreachable(f"{problem}; {fix}.", extra={"architecture": name})

    if constants.is_offline_mode():
        raise unreachable(f"The weights of {name} are not in the hub's cache and HF_HUB_OFFLINE is set")
    if not _reachable(constants.ENDPOINT):
        raise unreachable(f"The weights of {name} are at {url}, which cannot be reached from this machine")
    for file in files:
        try:
            return Path(hf_hub_download(repo, file, revision=revision, cache_dir=hub))
        except LocalEntryNotFoundError as error:  # the connection was lost
            raise unreachable(f"Downloading {url} failed: {error}") from error
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError) as error:
            if _is_refusal(error):
                extra = {"architecture": name}
                raise WeightsUnavailable(f"The hub refuses {url}: {error}; {fix}.", extra=extra) from error
            raise unreachable(f"Downloading {url} failed: {error}") from error
    raise _no_safetensors(name)


def _is_refusal(error: OSError) -> bool:
    """Whether the Hub answered that the file is missing or gated, which a later request does not change."""
    response = error.response if isinstance(error, HfHubHTTPError) else None
    return response is not None and 400 <= response.status_code < 500 and response.status_code not in _TEMPORARY


def _reachable(endpoint: str) -> bool:
    request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310 - the hub's own https endpoint
    try:
        with urllib.request.urlopen(request, timeout=_CONNECT_SECONDS):  # noqa: S310
            return True
    except urllib.error.HTTPError:
        return True  # any response means that the Hub is reachable
    except OSError:
        return False


def _no_safetensors(name: str) -> WeightsUnavailable:
    return WeightsUnavailable(
        f"The hub has the pretrained weights of {name} only in an unsupported format, such as a pickle; convert them "
        "to safetensors and upload them with POST /v1/models, or use another tag.",
        extra={"architecture": name},
    )
