"""Compressed students against the uncompressed one and against ONNX Runtime's quantizer with its defaults.

CIFAR-10 from the archive of the quality benchmark. One job per seed trains a student by distillation and runs all
steps; the gate accepts everything, so that each arm has a result. The peers quantize the job's ``model.onnx``, so all
arms of a seed have the same network. Differences are paired by seed.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks.cifar10 import FINAL, SplitSizes, split_images
from benchmarks.engine import JobInputs, run_new
from benchmarks.paired_statistics import compare
from benchmarks.results import RESULTS, ROOT, machine, table, write_json
from core.compress.onnx_runtime import OnnxNetwork
from core.data.pixels import load_pixels
from core.data.stored import StoredDataset
from core.evaluate import evaluate_accuracy
from core.evaluate.latency import measure_latency
from core.export.onnx_graph import INPUT
from core.models.preprocessing import Preprocessing, normalized
from core.models.weights import load_folder, save_folder

TEACHER_WEIGHTS = ROOT.parent / "shared" / "models" / "cifar10-dla34.safetensors"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
TEACHER = "mdl_dla34"
SIZE = 32
STUDENTS: dict[str, dict[str, Any]] = {
    "vit": {
        "architecture": "vit_tiny_patch16_224",
        "arguments": {"img_size": SIZE, "patch_size": 4, "embed_dim": 96, "depth": 6, "num_heads": 3},
    },
    "cnn": {"architecture": "resnet18", "arguments": {"layers": [1, 1, 1, 1], "channels": [32, 64, 128, 256]}},
}
STEPS: dict[str, dict[str, Any]] = {
    "int8 static": {"dtype": "int8"},
    "int8 static, percentile": {"dtype": "int8", "calibration": "percentile"},
    "int8 static, entropy": {"dtype": "int8", "calibration": "entropy"},
    "int8 dynamic": {"dtype": "int8", "mode": "dynamic"},
    "int8 qat": {"dtype": "int8", "mode": "qat", "epochs": 2},
    "fp16": {"dtype": "fp16"},
    "int4": {"dtype": "int4"},
}
NOT_FOR_CNN = ("int8 dynamic", "int4")
FLOAT = "fp32 ONNX"


def main(arguments: Sequence[str]) -> int:
    """Run all seeds, print and write the table."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    work = Path(options.work)
    sizes = SplitSizes(train=options.images, validation=1_000, assistant=1_000, pool=1_000, test=options.test)
    datasets = split_images(work, sizes)
    inputs = JobInputs(work, datasets, {TEACHER: _teacher(work)})
    rows = []
    for seed in range(options.seeds):
        rows += measure_seed(inputs, options, seed)
    print(format_rows(rows))
    if options.write:
        document = {"about": (__doc__ or "").strip(), "machine": machine(), "options": vars(options), "rows": rows}
        write_json(RESULTS / f"compression-{options.student}.json", document)
    return 0


def measure_seed(inputs: JobInputs, options: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    """Run one job, quantize its network with the peers, and return one row per arm."""
    names = [name for name in STEPS if options.student != "cnn" or name not in NOT_FOR_CNN]
    document = {
        "dataset": FINAL,
        "student": STUDENTS[options.student],
        "teachers": [{"architecture": "dla34", "weights": TEACHER}],
        "method": {"name": "kd"},
        "training": {
            "epochs": options.epochs, "batch_size": 64, "learning_rate": 1e-3, "seed": seed, "views": 10,
            "image_size": SIZE,
        },
        "compression": [{"name": "quantize", "max_top1_drop": 1, **STEPS[name]} for name in names],
        "export": ["safetensors", "onnx"],
    }  # fmt: skip
    result, _ = run_new(inputs, document, f"compression-{options.student}-{seed}", threads=options.threads)
    folder = result.artifacts["config.json"].parent
    rows = [
        {"arm": name, "seed": seed, **{field: entry[field] for field in ("top1", "size_bytes", "latency_ms")}}
        for name, entry in zip(names, result.result["compressed"], strict=True)
    ]
    network = load_folder(folder)
    files = {FLOAT: result.artifacts["model.onnx"]}
    files |= _peers(files[FLOAT], inputs.datasets[FINAL], network.preprocessing, inputs.work / "peers", seed)
    for arm, path in files.items():
        rows.append({"arm": arm, "seed": seed, **_measure(path, inputs.datasets[FINAL], network.preprocessing)})
    for row in rows:
        print(row, flush=True)
    return rows


def _peers(source: Path, dataset: Path, preprocessing: Preprocessing, folder: Path, seed: int) -> dict[str, Path]:
    """Quantize with the defaults of ONNX Runtime: all operators, one scale per tensor."""
    from onnxruntime.quantization import quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    folder.mkdir(parents=True, exist_ok=True)
    prepared = folder / f"prepared-{seed}.onnx"
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    with StoredDataset.open(dataset) as stored:
        images = load_pixels(stored, "train", SIZE, folder).images[:256]
    batches = preprocessing(torch.from_numpy(np.array(images)).float() / 255).split(32)
    static, dynamic = folder / f"static-{seed}.onnx", folder / f"dynamic-{seed}.onnx"
    reader = iter([{INPUT: batch.numpy()} for batch in batches])
    quantize_static(prepared, static, type("Reader", (), {"get_next": lambda _self: next(reader, None)})())
    quantize_dynamic(prepared, dynamic)
    return {"ONNX Runtime static": static, "ONNX Runtime dynamic": dynamic}


def _measure(path: Path, dataset: Path, preprocessing: Preprocessing) -> dict[str, Any]:
    try:
        network = OnnxNetwork.open(path, preprocessing)
        with StoredDataset.open(dataset) as stored:
            pixels = load_pixels(stored, "test", SIZE, path.parent)
            top1 = evaluate_accuracy(network, pixels).top1
        example = preprocessing(torch.from_numpy(np.array(pixels.images[:1])).float() / 255)
        latency = measure_latency(network.run, example[0], batch_sizes=(1,))[0].milliseconds
    except Exception as error:  # noqa: BLE001 - a peer's file may not run at all
        print(f"{path.name}: {error}")
        return {"top1": None, "size_bytes": path.stat().st_size, "latency_ms": None}
    return {"top1": top1, "size_bytes": path.stat().st_size, "latency_ms": round(latency, 4)}


def format_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return means over seeds, and differences to the float file in points, as a table."""
    arms: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["top1"] is not None:
            arms.setdefault(row["arm"], []).append(row)
    scores = {arm: {row["seed"]: 100 * row["top1"] for row in group} for arm, group in arms.items()}
    found = {each.arm: each for each in compare(scores, [(arm, FLOAT) for arm in arms if arm != FLOAT])}
    size = statistics.mean(row["size_bytes"] for row in arms[FLOAT])
    lines = []
    for arm, group in arms.items():
        difference = found.get(arm)
        own_size = statistics.mean(row["size_bytes"] for row in group)
        lines.append(
            [
                arm,
                f"{statistics.mean(scores[arm].values()):.2f}",
                "" if difference is None else f"{difference.difference:+.2f} ± {difference.half_width:.2f}",
                f"{own_size / 1000:,.0f}",
                f"{size / own_size:.2f}",
                f"{statistics.median(row['latency_ms'] for row in group):.2f}",
            ]
        )
    headings = ("arm", "top-1 %", "difference", "kB", "times smaller", "ms")
    return table(headings, lines, right=headings[1:])


def _teacher(work: Path) -> Path:
    """Return the folder of the shared teacher, as the engine loads it."""
    import timm

    folder = work / "teacher"
    arguments = {"num_classes": 10, "in_chans": 3}
    module = timm.create_model("dla34", **arguments)
    module.load_state_dict(load_file(TEACHER_WEIGHTS))
    preprocessing = normalized(MEAN, STD, image_size=SIZE, channels=3)
    save_folder(module, folder, architecture="dla34", arguments=arguments, preprocessing=preprocessing)
    return folder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks compression", description=__doc__)
    parser.add_argument("--student", choices=sorted(STUDENTS), default="vit")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--test", type=int, default=None, help="images of the test split; all without it")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", default="build/compression")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/compression-STUDENT.json")
    return parser
