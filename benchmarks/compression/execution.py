"""One run of the compression benchmark: a job of the engine, and the measured files of its student and steps."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import load_file

from benchmarks.cifar10 import FINAL, NUM_CLASSES, split_images
from benchmarks.compression import onnxruntime_peer, torch_pruning_peer
from benchmarks.compression.plan import FLOAT, IMAGE_SIZE, PEER_PRUNED, TEACHER, Protocol, Run
from benchmarks.engine import BenchmarkReporter, JobInputs, run
from benchmarks.quality.results import Result
from benchmarks.results import ROOT, machine
from core.compress.onnx_runtime import OnnxNetwork
from core.data.pixels import Pixels, load_pixels
from core.data.stored import SplitName, StoredDataset
from core.errors import PotstillError
from core.evaluate import evaluate_accuracy
from core.evaluate.latency import measure_latency
from core.models.preprocessing import Preprocessing, normalized
from core.models.weights import CONFIG, WEIGHTS, load_folder, save_folder
from core.reporting import STUDENT_TRACK, RunResult
from core.spec import JobSpec
from core.system.disk import atomic_path

TEACHER_WEIGHTS = ROOT.parent / "shared" / "models" / "cifar10-dla34.safetensors"
_MEAN, _STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of the teacher's training
_FIGURES = ("top1", "size_bytes", "latency_ms", "parameters", "flops")


@dataclass(frozen=True, slots=True)
class Execution:
    """Executes runs in a work folder. Runs of one seed share the checkpoint of its trained student."""

    work: Path
    protocol: Protocol
    threads: int

    def execute(self, task: Run, *, deadline: float | None = None) -> Result:
        """Train, or resume, and measure one run; return its result, also of one that fails by a defect of its spec.

        Raises:
            Interrupted: ``deadline`` (of ``time.monotonic``) is over; the run continues in a later call.
        """
        torch.set_num_threads(self.threads)
        root, began = self.work / "runs" / task.name, time.monotonic()
        inputs = JobInputs(self.work, split_images(self.work, self.protocol.sizes, names=(FINAL,)), self._models())
        result: Result = {"name": task.name, "digest": task.digest, "group": task.group.name, "seed": task.seed}
        student = self.work / "students" / self._training_digest(task)
        checkpoints = root / "checkpoints" / STUDENT_TRACK
        if student.is_dir() and not root.exists():
            shutil.copytree(student, checkpoints)
        spec = inputs.resolve(task.document, threads=self.threads)
        try:
            with BenchmarkReporter(root, teachers=self.work / "teachers", deadline=deadline) as reporter:
                found = run(inputs, spec, root, reporter)
            result |= {"status": "succeeded", **self._figures(task, spec, found, inputs)}
        except PotstillError as error:
            result |= {"status": error.code, "problem": error.detail[:500]}
        if checkpoints.is_dir() and not student.is_dir():
            student.parent.mkdir(exist_ok=True)
            with atomic_path(student, durable=False, unique=False) as temporary:
                shutil.copytree(checkpoints, temporary)
        shutil.rmtree(root)
        result |= {"spec": spec.model_dump(mode="json"), "threads": self.threads, "machine": machine()}
        return result | {"seconds": round(time.monotonic() - began, 1), "load_average": round(os.getloadavg()[1], 1)}

    def _training_digest(self, task: Run) -> str:
        """Return a SHA-256 of everything that the trained student depends on."""
        fields = {name: value for name, value in task.document.items() if name not in {"compression", "export"}}
        fields |= {"images": str(self.protocol.sizes), "threads": self.threads}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    def _models(self) -> dict[str, Path]:
        """Return the teacher's folder as the engine loads it."""
        folder = self.work / "teacher"
        if not (folder / CONFIG).is_file():
            arguments = {"num_classes": NUM_CLASSES, "in_chans": 3}
            module = timm.create_model("dla34", **arguments)
            module.load_state_dict(load_file(TEACHER_WEIGHTS))
            preprocessing = normalized(_MEAN, _STD, image_size=IMAGE_SIZE, channels=3)
            save_folder(module, folder, architecture="dla34", arguments=arguments, preprocessing=preprocessing)
        return {TEACHER: folder}

    def _figures(self, task: Run, spec: JobSpec, found: RunResult, inputs: JobInputs) -> Result:
        """Return the figures of the student, of each step and of the peer's files."""
        weights = found.artifacts[WEIGHTS]
        training = self._pixels(inputs, "train")
        rows = [_row(FLOAT, "safetensors", found.result["student"])]
        for (arm, step), entry in zip(task.steps.items(), found.result["compressed"], strict=True):
            kind = "onnx" if step["name"] == "quantize" else "safetensors"
            rows.append(_row(arm, kind, entry) | {"status": entry["status"], "held_out": entry["held_out"]})
        match task.group.peer:
            case "onnxruntime":
                preprocessing = load_folder(weights.parent).preprocessing
                files = {FLOAT: found.artifacts["model.onnx"]}
                files |= onnxruntime_peer.quantize(
                    files[FLOAT], training, preprocessing, self.work / "peers", seed=task.seed
                )
                rows += [
                    {"arm": arm, "format": "onnx", **self._measure(path, inputs, preprocessing)}
                    for arm, path in files.items()
                ]
            case "torch-pruning":
                pruned = torch_pruning_peer.prune(load_folder(weights.parent), spec, training)
                figures = torch_pruning_peer.measure(pruned, self._pixels(inputs, "test"))
                rows.append({"arm": PEER_PRUNED, "format": "safetensors", **figures})
        return {
            "rows": rows,
            "student_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "teacher_top1": found.result["teachers"][0]["top1"],
        }

    def _measure(self, path: Path, inputs: JobInputs, preprocessing: Preprocessing) -> dict[str, Any]:
        """Measure an ONNX file as the engine measures those of its steps."""
        network, pixels = OnnxNetwork.open(path, preprocessing), self._pixels(inputs, "test")
        example_1CHW = preprocessing(torch.from_numpy(np.array(pixels.images[:1])).float() / 255)
        return {
            "top1": evaluate_accuracy(network, pixels).top1,
            "size_bytes": path.stat().st_size,
            "latency_ms": round(measure_latency(network.run, example_1CHW[0], batch_sizes=(1,))[0].milliseconds, 4),
        }

    def _pixels(self, inputs: JobInputs, split: SplitName) -> Pixels:
        with StoredDataset.open(inputs.datasets[FINAL]) as stored:
            return load_pixels(stored, split, IMAGE_SIZE, self.work / "cache", threads=self.threads)


def _row(arm: str, kind: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    return {"arm": arm, "format": kind, **{name: figures[name] for name in _FIGURES if name in figures}}
