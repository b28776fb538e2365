"""Types of a job spec. Generated from `docs/openapi.json` by `make docs`; do not edit.

A spec may also be any mapping, for example one that was read from a file. The service checks it completely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Required, TypedDict


class ResourcesSpec(TypedDict, total=False):
    """Hardware of the job and its time limit."""

    accelerator: Literal["auto", "cpu", "cuda"]
    """`auto`: that of the first worker to claim the job; later attempts use the same."""
    devices: int
    """Devices of one machine that train the student together, each on a part of every batch. On a CPU: processes, at most 8."""
    max_seconds: float | None
    """Longest running time over all attempts, without waits and pauses. Then the job fails with `time_limit`; its last checkpoint is retained. Null: the service's limit. Only the service's workers enforce it; results do not depend on it."""
    threads: int | None
    """CPU threads. Null: the service's default."""


class TeacherTrainingSpec(TypedDict, total=False):
    """Training of a teacher before the student, on the same data."""

    augmentation: Literal["none", "flip", "light", "strong"]
    """`none`, `flip`, `light` (crop, flip) or `strong` (resized crop, color jitter, erase)."""
    batch_size: int
    """Images of one optimizer step."""
    cutmix: float
    """Alpha of cutmix: a rectangle of another image is pasted, with an area from Beta(alpha, alpha). 0: off. DeiT uses 1. If mixup is also on, each applies to half of the mixed images."""
    drop_path: float
    """Stochastic depth, if the model has it."""
    epochs: int | None
    """Passes over the training split. Null: 20; from random weights as many as make 1,000 steps, at least 20 and at most 200."""
    gradient_accumulation: int
    """Number of parts of a batch that are computed one after another to save memory. Steps, learning rate and `batch_size` keep their meaning; batch norms see one part at a time."""
    gradient_clip: float | None
    """Maximum gradient norm; null: no clipping."""
    image_size: int | None
    """Pixels a side. Null: the student's own size, or else the dataset's."""
    label_smoothing: float
    learning_rate: float
    """Peak rate. The default is that of adamw; see `optimizer`."""
    min_learning_rate: float
    """Rate at the end of the cosine schedule. Left out, it is at most `learning_rate`."""
    mix_probability: float
    """Fraction of the images that are mixed if mixup or cutmix is on."""
    mixup: float
    """Alpha of mixup: each image and its label are mixed with another, in proportions from Beta(alpha, alpha). 0: off. DeiT uses 0.8."""
    optimizer: Literal["adamw", "sgd", "lion"]
    """`adamw`, `sgd` (Nesterov momentum 0.9) or `lion`. It sets the defaults of `learning_rate` and `weight_decay`: sgd 0.05 and 5e-4, lion 1e-4 and 0.5."""
    precision: Literal["auto", "fp32", "bf16"]
    """`auto`: bf16 on CUDA, fp32 on a CPU."""
    seed: int
    """Seed of every random draw of the training."""
    warmup_epochs: float | None
    """Epochs of linear warmup from zero. Null: 1; where `epochs` is left out, a twentieth of its value."""
    weight_decay: float
    """Not applied to norms, biases and tokens."""


class TeacherSpec(TypedDict, total=False):
    """A model that the student learns from."""

    architecture: str | None
    """A timm name; `GET /v1/architectures` lists them. May be omitted if weights are those of a model or job: their architecture is filled in."""
    arguments: Mapping[str, Any]
    """Keyword arguments for `timm.create_model`. `num_classes` and `in_chans` come from the dataset, omitted arguments from the weights if these are those of a model or job."""
    distillation: DistillationSpec | None
    """With `weights: distill`: the distillation, on the job's dataset, that gives this model its weights before it is used. It starts from random weights."""
    training: TeacherTrainingSpec | None
    """Training with the dataset's labels: of a teacher with `weights: train`, or of one with given or distilled weights, which is fine-tuned with a new classifier for the dataset's classes."""
    weights: str
    """`pretrained` (public weights of timm), `train` (this job first trains it with the labels), `distill` (this job first distills it, as `distillation` says), `random`, or a model or job: its id (`mdl_…`, `job_…`), unique name or unique id prefix; or the id of a checkpoint (`ckpt_…`)."""


class BalanceSpec(TypedDict, total=False):
    """How the gradients of the label loss and of the distillation losses are combined."""

    delta: float
    """Only with `dot`: the labels have the momentum 0.9 − delta, distillation 0.9 + delta. 0.075 for CIFAR and 0.09 for ImageNet in the paper."""
    rule: Literal["none", "projected", "min_norm", "equal_norm", "dot"]
    """`none`: their sum. `projected`: where they conflict, each without its part against the other (PCGrad). `min_norm`: their shortest convex combination (MGDA), which follows the smaller one and shortens the step. `equal_norm`: distillation scaled to the length of the label gradient, at most tenfold. `dot`: SGD with a momentum for each (DOT, arXiv:2307.08436), without Nesterov. All but `none` compute a second backward pass and log `gradient_cosine`."""


class TrainingSpec(TypedDict, total=False):
    """Training of the student."""

    augmentation: Literal["none", "flip", "light", "strong"]
    """`none`, `flip`, `light` (crop, flip) or `strong` (resized crop, color jitter, erase)."""
    balance: BalanceSpec
    """Balance between the gradients of labels and distillation, for methods with a label term."""
    batch_size: int
    """Images of one optimizer step."""
    checkpoint_every_epochs: int
    """Maximum number of epochs between checkpoints."""
    cutmix: float
    """Alpha of cutmix: a rectangle of another image is pasted, with an area from Beta(alpha, alpha). 0: off. DeiT uses 1. If mixup is also on, each applies to half of the mixed images."""
    drop_path: float
    """Stochastic depth, if the model has it."""
    ema: float | None
    """Decay of an exponential moving average of the weights; the average is then exported."""
    epochs: int | None
    """Passes over the training split. Null: 20; from random weights as many as make 1,000 steps, at least 20 and at most 200. 0: a student that was trained before is compressed, evaluated and exported as it is."""
    gradient_accumulation: int
    """Number of parts of a batch that are computed one after another to save memory. Steps, learning rate and `batch_size` keep their meaning; batch norms see one part at a time."""
    gradient_clip: float | None
    """Maximum gradient norm; null: no clipping."""
    hold_out: float
    """Fraction of the training images (at most 10,000) that the student is not trained on. The report fits the temperature of its class probabilities on them. 0: all images are trained on."""
    image_size: int | None
    """Pixels a side. Null: the student's own size, or else the dataset's."""
    keep_weights_every_epochs: int | None
    """Keep the student's weights every this many epochs. Null: only the last."""
    label_smoothing: float
    learning_rate: float
    """Peak rate. The default is that of adamw; see `optimizer`."""
    min_learning_rate: float
    """Rate at the end of the cosine schedule. Left out, it is at most `learning_rate`."""
    mix_probability: float
    """Fraction of the images that are mixed if mixup or cutmix is on."""
    mixup: float
    """Alpha of mixup: each image and its label are mixed with another, in proportions from Beta(alpha, alpha). 0: off. DeiT uses 0.8."""
    optimizer: Literal["adamw", "sgd", "lion"]
    """`adamw`, `sgd` (Nesterov momentum 0.9) or `lion`. It sets the defaults of `learning_rate` and `weight_decay`: sgd 0.05 and 5e-4, lion 1e-4 and 0.5."""
    precision: Literal["auto", "fp32", "bf16"]
    """`auto`: bf16 on CUDA, fp32 on a CPU."""
    seed: int
    """Seed of every random draw of the training."""
    views: int | None
    """Augmented views of each image, used in turn. Null: a new view in every epoch."""
    warmup_epochs: float | None
    """Epochs of linear warmup from zero. Null: 1; where `epochs` is left out, a twentieth of its value."""
    weight_decay: float
    """Not applied to norms, biases and tokens."""


class DistillationSpec(TypedDict, total=False):
    """A distillation that gives a model its weights before the job uses it."""

    method: Required[Mapping[str, Any]]
    """One object, discriminated by `name`, as in the job."""
    teachers: Sequence[TeacherSpec]
    training: TrainingSpec


class StudentSpec(TypedDict, total=False):
    """The model to train and export."""

    architecture: str | None
    """A timm name; `GET /v1/architectures` lists them. May be omitted if weights are those of a model or job: their architecture is filled in."""
    arguments: Mapping[str, Any]
    """Keyword arguments for `timm.create_model`. `num_classes` and `in_chans` come from the dataset, omitted arguments from the weights if these are those of a model or job."""
    distillation: DistillationSpec | None
    """With `weights: distill`: the distillation, on the job's dataset, that gives this model its weights before it is used. It starts from random weights."""
    weights: str
    """`random`, `pretrained` (public weights of timm), `distill` (this job first distills it, as `distillation` says), or a model or job whose weights to start from: its id (`mdl_…`, `job_…`), unique name or unique id prefix; or the id of a checkpoint (`ckpt_…`) of a job, which then retains it."""


class JobSpec(TypedDict, total=False):
    """A distillation job."""

    baseline: bool
    """Also train the student with the same budget by labels alone (method `scratch`), or find an equal training of an earlier job. The report then tells whether the teacher helped."""
    compression: Sequence[Mapping[str, Any]]
    """Steps that make the trained student smaller, in order; each is one object, discriminated by `name`. With any, a tenth of the training split is held out to judge them."""
    dataset: Required[str]
    """Id (`ds_…`), unique name or unique id prefix of a dataset."""
    export: Sequence[Literal["safetensors", "onnx", "torch_export", "openvino"] | Mapping[str, Any]]
    """Formats of the exported student: names, or objects with options such as `{'format': 'onnx', 'preprocessing': true}`. `safetensors` is always written."""
    metadata: Mapping[str, str]
    method: Required[Mapping[str, Any]]
    """One object, discriminated by `name`; `GET /v1/methods` lists all methods."""
    name: str | None
    priority: int
    """Jobs of a project run in order of descending priority; projects share workers fairly."""
    resources: ResourcesSpec
    student: Required[StudentSpec]
    teachers: Sequence[TeacherSpec]
    training: TrainingSpec
    unlabeled_dataset: str | None
    """Id, unique name or unique id prefix of a second dataset, whose training images the student also trains on, without labels. Teachers with `training` and the baseline train on the labeled dataset alone."""
