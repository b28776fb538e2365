"""How long a job takes and how much memory: rules of thumb, good to a factor of two.

The rates were measured with small and middle-sized ViTs and ResNets (docs: benchmarks); the probe
at the start of a job measures the real step.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.evaluate.appraisal import Appraisal

CPU_FLOPS_PER_THREAD = 45e9  # fp32, per second
CUDA_FLOPS = 15e12  # bf16 training of small models; they do not fill a large GPU
CALL_SECONDS = 50e-6  # of a module's forward pass that does next to nothing
TRAINING_FACTOR = 3  # a backward pass costs two forward passes
START_AND_EXPORT_SECONDS = 8.0  # opening data, probe, ONNX, report
PROCESS_BYTES = 700 * 1024**2  # torch, timm and friends


@dataclass(frozen=True, slots=True)
class Load:
    """One model's part in a job: so many forward passes of so many pictures, with or without backward passes."""

    model: Appraisal
    batch_size: int
    steps: int
    trains: bool


def estimate_seconds(loads: list[Load], *, threads: int, accelerator: str) -> float:
    """Seconds of all loads, one after the other, start and export included."""
    return START_AND_EXPORT_SECONDS + sum(
        load_seconds(load, threads=threads, accelerator=accelerator) for load in loads
    )


def load_seconds(load: Load, *, threads: int, accelerator: str) -> float:
    """Seconds of one load."""
    rate = CUDA_FLOPS if accelerator == "cuda" else CPU_FLOPS_PER_THREAD * threads**0.9
    factor = TRAINING_FACTOR if load.trains else 1
    step = factor * (load.model.flops * load.batch_size / rate + load.model.calls * CALL_SECONDS)
    return step * load.steps


def estimate_memory(student: Load, teachers: list[Load], trained_teachers: list[Load], *, ema: bool) -> int:
    """Peak bytes: a training (student beside its teachers, or a teacher before) and the process itself.

    A trained model has weights, gradients and two moments of AdamW in fp32 and keeps the activations
    of a batch; a frozen one has its weights and a few activations in flight.
    """
    beside = sum(4 * load.model.parameters + 8 * _widest(load) for load in teachers)
    peaks = [_training_bytes(student) + beside + (4 * student.model.parameters if ema else 0)]
    peaks += [_training_bytes(load) for load in trained_teachers]
    return PROCESS_BYTES + max(peaks)


def _training_bytes(load: Load) -> int:
    return 16 * load.model.parameters + 4 * load.model.activations * load.batch_size


def _widest(load: Load) -> int:
    """Activations alive at once without a backward pass: those of a few calls."""
    return load.model.activations * load.batch_size // max(1, load.model.calls // 4)
