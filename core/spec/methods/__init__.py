"""The registry of methods: one entry per method, with its parameters and the name of its implementation.

Implementations are named, not imported, so that this package does not depend on torch.
``tests/core/methods/test_registry.py`` checks that both agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from core.spec.methods.agglomerate import AgglomerateParams
from core.spec.methods.attention_probe import AttentionProbeParams
from core.spec.methods.attention_transfer import AttentionTransferParams
from core.spec.methods.auto import AutoParams
from core.spec.methods.base import Family, MethodInfo, MethodParams, Requirements
from core.spec.methods.co_advise import CoAdviseParams
from core.spec.methods.crd import CrdParams
from core.spec.methods.cross_architecture import CrossArchitectureParams
from core.spec.methods.cumulative_spatial import CumulativeSpatialParams
from core.spec.methods.dearkd import DearkdParams
from core.spec.methods.deit import DeitParams
from core.spec.methods.dist import DistParams
from core.spec.methods.dkd import DkdParams
from core.spec.methods.feature import FoundationParams
from core.spec.methods.fitnets import FitnetsParams
from core.spec.methods.kd import KdParams
from core.spec.methods.lift import LiftParams
from core.spec.methods.logit_standardization import LogitStandardizationParams
from core.spec.methods.manifold import ManifoldParams
from core.spec.methods.masked_teacher import MaskedTeacherParams
from core.spec.methods.mgd import MgdParams
from core.spec.methods.minivit import MinivitParams
from core.spec.methods.mutual import MutualParams
from core.spec.methods.nkd import NkdParams
from core.spec.methods.ofa import OfaParams
from core.spec.methods.pkt import PktParams
from core.spec.methods.proteus import ProteusParams
from core.spec.methods.review import ReviewParams
from core.spec.methods.rkd import RkdParams
from core.spec.methods.rld import RldParams
from core.spec.methods.scalekd import ScalekdParams
from core.spec.methods.scratch import ScratchParams
from core.spec.methods.self_distillation import SelfDistillationParams
from core.spec.methods.similarity import SimilarityParams
from core.spec.methods.spectral import SpectralParams
from core.spec.methods.target_aware import TargetAwareParams
from core.spec.methods.tinymim import TinymimParams
from core.spec.methods.tinyvit import TinyvitParams
from core.spec.methods.uvc import UvcParams
from core.spec.methods.vid import VidParams
from core.spec.methods.vitkd import VitkdParams
from core.spec.methods.vkd import VkdParams
from core.spec.methods.wkd import WkdParams
from core.spec.methods.wsld import WsldParams
from core.spec.methods.wttm import WttmParams


@dataclass(frozen=True, slots=True)
class MethodEntry:
    """A method's parameters and the class that implements it, as ``module:Class``."""

    params: type[MethodParams]
    implementation: str


METHODS: dict[str, MethodEntry] = {
    "scratch": MethodEntry(ScratchParams, "core.methods.scratch:Scratch"),
    "kd": MethodEntry(KdParams, "core.methods.kd:Kd"),
    "dkd": MethodEntry(DkdParams, "core.methods.dkd:Dkd"),
    "nkd": MethodEntry(NkdParams, "core.methods.nkd:Nkd"),
    "dist": MethodEntry(DistParams, "core.methods.dist:Dist"),
    "logit_standardization": MethodEntry(
        LogitStandardizationParams, "core.methods.logit_standardization:LogitStandardization"
    ),
    "wsld": MethodEntry(WsldParams, "core.methods.wsld:Wsld"),
    "wttm": MethodEntry(WttmParams, "core.methods.wttm:Wttm"),
    "wkd": MethodEntry(WkdParams, "core.methods.wkd:Wkd"),
    "rld": MethodEntry(RldParams, "core.methods.rld:Rld"),
    "ofa": MethodEntry(OfaParams, "core.methods.ofa:Ofa"),
    "deit": MethodEntry(DeitParams, "core.methods.deit:Deit"),
    "co_advise": MethodEntry(CoAdviseParams, "core.methods.co_advise:CoAdvise"),
    "tinyvit": MethodEntry(TinyvitParams, "core.methods.tinyvit:Tinyvit"),
    "manifold": MethodEntry(ManifoldParams, "core.methods.manifold:Manifold"),
    "target_aware": MethodEntry(TargetAwareParams, "core.methods.target_aware:TargetAware"),
    "minivit": MethodEntry(MinivitParams, "core.methods.minivit:Minivit"),
    "attention_probe": MethodEntry(AttentionProbeParams, "core.methods.attention_probe:AttentionProbe"),
    "uvc": MethodEntry(UvcParams, "core.methods.uvc:Uvc"),
    "dearkd": MethodEntry(DearkdParams, "core.methods.dearkd:Dearkd"),
    "cross_architecture": MethodEntry(CrossArchitectureParams, "core.methods.cross_architecture:CrossArchitecture"),
    "fitnets": MethodEntry(FitnetsParams, "core.methods.fitnets:Fitnets"),
    "attention_transfer": MethodEntry(AttentionTransferParams, "core.methods.attention_transfer:AttentionTransfer"),
    "rkd": MethodEntry(RkdParams, "core.methods.rkd:Rkd"),
    "crd": MethodEntry(CrdParams, "core.methods.crd:Crd"),
    "similarity": MethodEntry(SimilarityParams, "core.methods.similarity:Similarity"),
    "pkt": MethodEntry(PktParams, "core.methods.pkt:Pkt"),
    "vid": MethodEntry(VidParams, "core.methods.vid:Vid"),
    "review": MethodEntry(ReviewParams, "core.methods.review:Review"),
    "mgd": MethodEntry(MgdParams, "core.methods.mgd:Mgd"),
    "vitkd": MethodEntry(VitkdParams, "core.methods.vitkd:Vitkd"),
    "vkd": MethodEntry(VkdParams, "core.methods.vkd:Vkd"),
    "spectral": MethodEntry(SpectralParams, "core.methods.spectral:Spectral"),
    "lift": MethodEntry(LiftParams, "core.methods.lift:Lift"),
    "cumulative_spatial": MethodEntry(CumulativeSpatialParams, "core.methods.cumulative_spatial:CumulativeSpatial"),
    "scalekd": MethodEntry(ScalekdParams, "core.methods.scalekd:Scalekd"),
    "masked_teacher": MethodEntry(MaskedTeacherParams, "core.methods.masked_teacher:MaskedTeacher"),
    "feature": MethodEntry(FoundationParams, "core.methods.feature:FoundationFeatures"),
    "agglomerate": MethodEntry(AgglomerateParams, "core.methods.agglomerate:Agglomerate"),
    "proteus": MethodEntry(ProteusParams, "core.methods.proteus:Proteus"),
    "tinymim": MethodEntry(TinymimParams, "core.methods.tinymim:Tinymim"),
    "self_distillation": MethodEntry(SelfDistillationParams, "core.methods.self_distillation:SelfDistillation"),
    "mutual": MethodEntry(MutualParams, "core.methods.mutual:Mutual"),
}

SELECTABLE: Mapping[str, type[MethodParams]] = MappingProxyType(
    {**{name: entry.params for name, entry in METHODS.items()}, "auto": AutoParams}
)
"""Parameters by the names that a client may send: all methods, and ``auto``, which the resolver replaces by one."""

if TYPE_CHECKING:
    MethodSpec = MethodParams
else:
    MethodSpec = Annotated[
        Union[(*(entry.params for entry in METHODS.values()), AutoParams)],
        Field(discriminator="name"),
    ]

__all__ = ["METHODS", "SELECTABLE", "Family", "MethodEntry", "MethodInfo", "MethodParams", "MethodSpec", "Requirements"]
