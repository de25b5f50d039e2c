"""Options of training and verification in groups, each once: name, type, default and help. Each part takes its own group."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from arcface.errors import UserError
from arcface.io.files import user_path
from arcface.options.command_line import POSITIONAL, parse
from arcface.options.kinds import (
    Angle,
    Cosine,
    CosineDifference,
    Count,
    CountOrZero,
    Device,
    Momentum,
    Names,
    OnNonfinite,
    PathName,
    Positive,
    PositiveOrZero,
    Probability,
    Seed,
    Share,
    Size,
    StepWindow,
    Workers,
)

__all__ = ["parse"]


@dataclass
class NetworkOptions:
    """Network"""

    network: str = "MobileFaceNet_128"
    """Name of the backbone in the registry (arcface/backbones)."""
    embedding_size: Size = 128
    """Length of an embedding, the vector that a face becomes."""
    device: Device = "auto"
    """Where to compute: auto (a GPU if Paddle can use one), cpu, gpu, or gpu:3, the fourth GPU that this process sees."""
    rank_timeout: Count = 600
    """Seconds without progress, or to open the data, after which a rank is named in an error and the run ends."""


class ListedPairs(NamedTuple):
    """What LIST=FOLDER in --val_targets names: a list of pairs, and the folder of their images."""

    pairs: Path
    images: Path


def name_of_set(target: Path | ListedPairs) -> str:
    """Return what log lines call one of `VerificationOptions.val_files`: the last part of its path."""
    return target.images.absolute().name if isinstance(target, ListedPairs) else target.absolute().stem


@dataclass
class VerificationOptions:
    """Verification on InsightFace .bin sets, folders and lists of pairs"""

    data_dir: PathName = "MS1M_v2"
    """The dataset: a directory with label.txt, train.rec or a folder for each identity, or a .rec file or list by itself."""
    val_dir: PathName | None = None
    """Directory of the verification .bin files; when not given, data_dir, or the directory of a data_dir that is a file."""
    val_targets: Names = "lfw,cfp_fp,agedb_30"
    """Sets: NAME.bin, or directory NAME: IJB (meta/), TinyFace (Gallery_Match/) or identities; LIST=FOLDER lists pairs; '' none."""
    detector: PathName | None = None
    """YuNet model (.onnx) that finds the faces in verification sets of photos, which are folders and lists of pairs."""
    val_batch_size: Size | None = None
    """Faces embedded at once in verification, each plain and flipped; when not given, 16 on a CPU and 128 on a GPU."""
    engine: Literal["auto", "openvino", "paddle-inference", "onnxruntime", "paddle"] = "auto"
    """What computes embeddings in verification; auto uses the fastest that can be built (arcface/inference/engines.py)."""

    @property
    def val_files(self) -> list[Path | ListedPairs]:
        """The verification sets: NAME.bin, which stands for the directory NAME where there is none, or LIST=FOLDER."""
        directory = Path(self.val_dir or self.data_dir)
        if not self.val_dir and os.path.isfile(directory):
            directory = directory.parent
        targets = [_val_file(directory, name.strip()) for name in self.val_targets.split(",") if name.strip()]
        called = list(map(name_of_set, targets))
        if repeated := sorted({name for name in called if called.count(name) > 1}):
            raise UserError(f"--val_targets: several sets are named {repeated[0]}; rename one or leave it out")
        return targets


def _val_file(directory: Path, name: str) -> Path | ListedPairs:
    path = directory / user_path(name.removesuffix(".bin"))
    file = Path(f"{path}.bin")
    pairs, equals, images = name.partition("=")
    if not equals or os.path.exists(file) or os.path.isdir(path):
        return file
    if not pairs.strip() or not images.strip():
        raise UserError(f"--val_targets {name}: is not LIST=FOLDER, as in pairs.txt=photos; name both")
    return ListedPairs(directory / user_path(pairs.strip()), directory / user_path(images.strip()))


@dataclass
class DataOptions:
    """Training data"""

    label_file: PathName = "label.txt"
    """List of the training images, relative to data_dir: lines of 'images/00000000.jpg<TAB>0', or a .lst, .csv or .parquet."""
    outside_paths: Literal[0, 1] = 0
    """1 allows the label file to name images outside data_dir, by an absolute path or by '..'."""
    num_classes: Count | None = None
    """Number of identities; read from the labels when not given."""
    num_workers: Workers = 2
    """Processes per rank that read and decode images (on Linux); 0 decodes in the training process."""
    shuffle: Literal["global", "blocks"] = "global"
    """How an epoch is shuffled: all images, or so that images read together lie near each other, for slow disks."""
    sampling: Literal["natural", "balanced"] = "natural"
    """What an epoch contains: every image once, or as many images, of every identity equally often."""
    augment_photometric: Probability = 0.0
    """Probability that an image's brightness, contrast and saturation are changed."""
    augment_low_resolution: Probability = 0.0
    """Probability that an image is shrunk and enlarged again."""
    augment_crop: Probability = 0.0
    """Probability that a part of an image is kept and the rest made black."""
    augment_occlusion: Probability = 0.0
    """Probability that a rectangle of an image is covered."""
    scan_images: CountOrZero = 10000
    """How many images, spread evenly over the list, to decode before training starts."""
    max_bad_images: CountOrZero = 10
    """Number of images that may prove unreadable during training before the run stops."""


@dataclass
class HeadOptions:
    """Head: cos(margin1 * angle + margin2) - margin3 on the target, times scale"""

    margin1: Positive = 1.0
    """Multiplies the angle (SphereFace)."""
    margin2: Angle = 0.5
    """Added to the angle (ArcFace)."""
    margin3: CosineDifference = 0.0
    """Subtracted from the cosine (CosFace)."""
    scale: Positive = 64.0
    """Multiplies the cosines: the radius of the hypersphere."""
    sample_rate: Share = 1.0
    """Share of the classes used in a step (Partial FC): the batch's own and random others."""


@dataclass
class OptimizerOptions:
    """Optimisation"""

    batch_size: Size = 512
    """Images in a step over all ranks together."""
    accumulate: Size = 1
    """Compute a step in this many parts, for less memory: the same step, but batch_norm local and sync see one part's images."""
    recompute: Literal[0, 1] = 0
    """1 computes activations again in the backward pass, block by block: the same step in less memory and about 4/3 of the time."""
    ema: Momentum = 0.0
    """Keep an average of the backbone over steps that decays by this factor, as 0.9999, to verify and save it; 0 keeps none."""
    lr: PositiveOrZero = 0.1
    """Learning rate for a batch of 512; the rate used is lr * batch_size / 512."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Of the backbone; the head always has sgd. With adamw, try --lr 1.7e-4 --weight_decay 0.1 --head_lr_scale 600."""
    momentum: Momentum = 0.9
    """Momentum of the updates of backbone (AdamW's beta1) and class centres."""
    adam_beta2: Momentum = 0.999
    """AdamW's beta2, for the average of squared gradients."""
    weight_decay: PositiveOrZero = 2e-4
    """L2 penalty on all weights of backbone and head; adamw's is decoupled: a step shrinks weights by its rate times this."""
    head_lr_scale: PositiveOrZero = 1.0
    """The head's learning rate is that of the backbone times this."""
    head_weight_decay: PositiveOrZero | None = None
    """L2 penalty on the class centres; weight_decay when not given."""
    freeze: Names = ""
    """Stages of the backbone, as in stem,stage1, or backbone for all, that stay as they are, with their batch norm statistics."""
    clip_norm: PositiveOrZero = 0.0
    """Global norm to which larger gradients of the backbone are scaled down; 0 never clips."""
    num_epoch: Count = 32
    """Passes over the training images."""
    max_steps: Count | None = None
    """Stop after this many steps in total, with a checkpoint; the schedule stays that of num_epoch."""
    schedule: Literal["step", "poly", "cosine"] = "step"
    """How the rate falls after the warm-up: by decay_rate at decay_epochs, or as a polynomial or half a cosine to 0."""
    warmup_epoch: PositiveOrZero = 1.0
    """Epochs in which the rate rises linearly."""
    decay_epochs: list[PositiveOrZero] = field(default_factory=lambda: [6, 12, 18, 24])
    """Schedule step: epochs at which the rate is multiplied by decay_rate."""
    decay_rate: Share = 0.1
    """Schedule step: the factor of each decay."""
    poly_power: Positive = 2.0
    """Schedule poly: the rate is proportional to (share of steps left) ** poly_power."""
    batch_norm: Literal["local", "sync", "frozen"] = "local"
    """Batch norm statistics of each rank's own images, of all ranks' images, or fixed (fine-tuning)."""
    cpu_kernels: Literal["auto", "off"] = "auto"
    """On a CPU with a C++ compiler, auto trains with kernels built at first use; the backbone's need batch_norm local."""
    tf32: Literal[0, 1] = 1
    """Let the backbone train with TF32 on GPUs from Ampere on: faster, with 10 bits, not 23. Nothing else uses it."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """What most of the backbone computes in, on a GPU, in training; statistics, head and loss stay float32."""
    precision_emulation: Literal[0, 1] = 0
    """1 lets a CPU train in bf16 or fp16 by rounding to it, slowly: to see how training goes in it."""
    cudnn_search: Literal[0, 1] = 0
    """1 lets cuDNN time its convolutions in the first steps and keep the fastest; runs are then not repeatable bit for bit."""


@dataclass
class RunOptions:
    """The run"""

    output: PathName = "emore_arcface"
    """Directory for checkpoints and training.log."""
    logdir: PathName = "log"
    """Directory for VisualDL's records and metrics.jsonl."""
    resume: Literal[0, 1] = 0
    """1 resumes from the checkpoint in output."""
    init_from: PathName | None = None
    """Start from the backbone in this .pdparams or .safetensors file, with a new head (fine-tuning); ignored with --resume 1."""
    save_interval: CountOrZero = 0
    """Also write a checkpoint every this many steps; 0 writes one only at each epoch's end."""
    keep_every: CountOrZero = 0
    """Keep every n-th checkpoint permanently; 0 keeps only the last and the best."""
    best_by: str | None = None
    """Verification set by whose accuracy the best checkpoint is kept; the first of val_targets when not given."""
    on_save_error: Literal["stop", "continue"] = "stop"
    """When a checkpoint cannot be written: stop, or train on and keep the one before it; at the end, always stop."""
    on_nonfinite: OnNonfinite = "stop"
    """When a step's loss or gradient is not finite: stop before its update, or skip:N up to N such steps."""
    log_interval: Count = 100
    """Steps between log lines."""
    val_interval: CountOrZero = 2000
    """Steps between verifications; 0 verifies at the end only."""
    patience: CountOrZero = 0
    """End the run, with a checkpoint, after this many verifications in a row without a new best; 0 never does."""
    profile: StepWindow | None = None
    """Write a trace of the steps from FIRST to before END to logdir, for Perfetto or chrome://tracing, as in 100:110."""
    seed: Seed = 0
    """Key of every random draw; the same seed repeats the run."""


@dataclass
class TrainConfig(RunOptions, OptimizerOptions, HeadOptions, DataOptions, VerificationOptions, NetworkOptions):
    """Options of train.py."""


@dataclass
class TemplateOptions:
    """Verification of templates, as in IJB-B and IJB-C"""

    template_flip: Literal[0, 1] = 1
    """IJB-style sets: add the embedding of the mirror image."""
    template_norm_score: Literal[0, 1] = 1
    """IJB-style sets: the norm of an image's embedding is its weight in the template; 0 normalises it."""
    template_detector_score: Literal[0, 1] = 1
    """IJB-style sets: the face detector's score is the image's weight too."""


@dataclass
class ValidConfig(TemplateOptions, VerificationOptions, NetworkOptions):
    """Options of valid.py."""

    checkpoint: PathName = "emore_arcface"
    """Directory that train.py wrote (its --output), or any with <network>_ema.pdparams, else <network>.pdparams or .safetensors."""
    report: PathName | None = None
    """Directory for a report: index.html with tables, curves and the worst mistakes, and the curves as PNG."""


@dataclass
class PhotoOptions:
    """Photos"""

    detector: PathName | None = None
    """YuNet model (.onnx) that finds and aligns the faces of photos; without it, every image is an aligned 112x112 crop."""
    faces: Literal["largest", "all"] = "largest"
    """Which faces of a photo: the one that is large and near the middle, or all."""


@dataclass
class EmbeddingOptions(PhotoOptions, NetworkOptions):
    """Embedding"""

    checkpoint: PathName = "emore_arcface"
    """Directory that train.py wrote (its --output), or any with <network>.pdparams or .safetensors."""
    engine: Literal["auto", "openvino", "paddle-inference", "onnxruntime", "paddle"] = "auto"
    """What computes embeddings; auto uses the fastest that can be built (arcface/inference/engines.py)."""
    batch_size: Size | None = None
    """Faces embedded at once; when not given, 32 on a CPU and 256 on a GPU."""


@dataclass(kw_only=True)
class EmbedConfig(EmbeddingOptions):
    """Options of embed"""

    images: PathName = field(metadata=POSITIONAL)
    """What to embed: a folder, a .bin set, a dataset, a list of paths, or an image."""
    output: PathName
    """File to write: NAME.npz, NAME.npy or NAME.parquet."""
    flip: Literal[0, 1] = 0
    """1 adds the embedding of the mirror image, as verification does."""


@dataclass(kw_only=True)
class CompareConfig(EmbeddingOptions):
    """Options of compare"""

    first: PathName = field(metadata=POSITIONAL)
    """An image."""
    second: PathName = field(metadata=POSITIONAL)
    """The image to compare it with."""
    threshold: Cosine | None = None
    """Similarity from which on two faces count as one identity."""
    report: PathName | None = None
    """In place of a threshold: the report.json that valid.py --report wrote, or its directory."""
    far: Probability = 1e-4
    """With a report: the false accept rate whose threshold is used, one of those that the report has."""
    set: str | None = None
    """With a report of several verification sets: the name of the one whose threshold is used."""


@dataclass(kw_only=True)
class ExportOptions:
    """Export of a trained backbone"""

    network: str = NetworkOptions.network
    """Name of the backbone."""
    embedding_size: Size = NetworkOptions.embedding_size
    """Length of its embeddings."""
    checkpoint: PathName = "emore_arcface"
    """Directory that train.py wrote (its --output), or any with <network>.pdparams or .safetensors."""
    output: PathName
    """Directory to write: the model's files and export.json, which describes them."""
    format: Literal["paddle", "onnx", "openvino"] = "onnx"
    """What the model is for: paddle.inference; ONNX Runtime, OpenCV and all that reads ONNX; OpenVINO."""
    uint8_input: bool = False
    """The model takes uint8 RGB images and normalises them by itself; otherwise float32, as (pixel - 127.5) / 127.5."""
    normalize: bool = False
    """The model's embeddings have length 1."""
    overwrite: bool = False
    """Replace the export in output, if there is one."""
