"""Every option of the commands, once: name, type, default, help. Read from a YAML file, with flags on top."""

import difflib
import re
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, Optional, TypeVar

from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings
from jsonargparse.typing import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    restricted_number_type,
    restricted_string_type,
)

from arcface.errors import UserError

Share = restricted_number_type("Share", float, [(">", 0), ("<=", 1)])
OnNonfinite = restricted_string_type("OnNonfinite", r"^(stop|skip:[1-9]\d{0,8})$")
Momentum = restricted_number_type("Momentum", float, [(">=", 0), ("<", 1)])

set_parsing_settings(docstring_parse_attribute_docstrings=True)


@dataclass
class NetworkOptions:
    """Network"""

    network: str = "MobileFaceNet_128"
    """Name of the backbone in the registry (arcface/backbones)."""
    embedding_size: PositiveInt = 128
    """Length of the vector that a face becomes."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where to compute; auto takes a GPU if Paddle can use one."""
    rank_timeout: PositiveInt = 600
    """Seconds that ranks wait for one that stands still before they end with an error that names it."""


@dataclass
class VerificationOptions:
    """Verification on InsightFace .bin sets"""

    data_dir: str = "MS1M_v2"
    """Directory of the data set: label.txt, images/ and the verification .bin files."""
    val_dir: Optional[str] = None
    """Directory of the verification .bin files; data_dir when not given."""
    val_targets: str = "lfw,cfp_fp,agedb_30"
    """Names of the verification sets, separated by commas: lfw reads lfw.bin; '' verifies nothing."""
    val_batch_size: PositiveInt = 16
    """Faces embedded at once in verification, each plain and flipped."""
    engine: Literal["auto", "openvino", "paddle-inference", "onnxruntime", "paddle"] = "auto"
    """What computes embeddings in verification; auto takes the fastest that is installed (arcface/deploy/engines.py)."""

    @property
    def val_files(self) -> list[Path]:
        """The verification sets' files."""
        names = [name.strip() for name in self.val_targets.split(",") if name.strip()]
        files = [Path(self.val_dir or self.data_dir) / f"{name}.bin" for name in names]
        called = [file.stem for file in files]
        if repeated := sorted({name for name in called if called.count(name) > 1}):
            raise UserError(f"--val_targets: several sets are called {repeated[0]}; rename one or leave it out")
        return files


@dataclass
class DataOptions:
    """Training data"""

    label_file: str = "label.txt"
    """List of the training images, relative to data_dir: lines of 'images/00000000.jpg<TAB>0'."""
    num_classes: Optional[PositiveInt] = None
    """Number of people; read from the labels when not given."""
    num_workers: NonNegativeInt = 2
    """Processes per rank that read and decode images; 0 decodes in the training process."""
    scan_images: NonNegativeInt = 10000
    """How many images, spread evenly over the list, to decode before training starts."""
    max_bad_images: NonNegativeInt = 10
    """Different images that may turn out unreadable during training before the run stops."""


@dataclass
class HeadOptions:
    """Head: cos(margin1 * angle + margin2) - margin3 on the true class, times scale"""

    margin1: PositiveFloat = 1.0
    """Multiplies the angle (SphereFace)."""
    margin2: NonNegativeFloat = 0.5
    """Is added to the angle, in radians (ArcFace)."""
    margin3: NonNegativeFloat = 0.0
    """Is subtracted from the cosine (CosFace)."""
    scale: PositiveFloat = 64.0
    """Multiplies the cosines: the radius of the hypersphere."""
    sample_rate: Share = 1.0
    """Share of the classes used in a step (Partial FC): the batch's own and random others."""


@dataclass
class OptimizerOptions:
    """Optimisation: SGD with momentum"""

    batch_size: PositiveInt = 512
    """Images in a step over all ranks together."""
    lr: NonNegativeFloat = 0.1
    """Learning rate for a batch of 512; the rate used is lr * batch_size / 512."""
    momentum: Momentum = 0.9
    """Momentum of the updates of backbone and class centres."""
    weight_decay: NonNegativeFloat = 2e-4
    """L2 penalty on all weights of backbone and head."""
    clip_norm: NonNegativeFloat = 0.0
    """Scale the backbone's gradients down to this global norm when they exceed it; 0 never clips."""
    num_epoch: PositiveInt = 32
    """Passes over the training images."""
    max_steps: Optional[PositiveInt] = None
    """Stop after this many steps in all, with a checkpoint; the schedule stays that of num_epoch."""
    schedule: Literal["step", "poly"] = "step"
    """How the rate falls after the warm-up: by decay_rate at decay_epochs, or as a polynomial to 0."""
    warmup_epoch: NonNegativeFloat = 1.0
    """Epochs in which the rate rises linearly."""
    decay_epochs: list[NonNegativeFloat] = field(default_factory=lambda: [6, 12, 18, 24])
    """Schedule step: epochs at which the rate is multiplied by decay_rate."""
    decay_rate: Share = 0.1
    """Schedule step: the factor of each decay."""
    poly_power: PositiveFloat = 2.0
    """Schedule poly: the rate is proportional to (share of steps left) ** poly_power."""
    batch_norm: Literal["local", "sync", "frozen"] = "local"
    """Batch norm statistics of each rank's own images, of all ranks' images, or fixed (fine-tuning)."""
    cpu_kernels: Literal["auto", "off"] = "auto"
    """On a CPU with batch_norm local: train with kernels that are built at first use, if there is a C++ compiler."""


@dataclass
class RunOptions:
    """The run"""

    output: str = "emore_arcface"
    """Directory for checkpoints and training.log."""
    logdir: str = "log"
    """Directory for VisualDL's records and metrics.jsonl."""
    resume: Literal[0, 1] = 0
    """1 continues from the checkpoint in output."""
    init_from: Optional[str] = None
    """Start from the backbone in this .pdparams or .safetensors file, with a new head (fine-tuning); --resume 1 passes over it."""
    save_interval: NonNegativeInt = 0
    """Also write a checkpoint every so many steps; 0 only at each epoch's end."""
    keep_every: NonNegativeInt = 0
    """Keep every so many-th checkpoint for good; 0 keeps only the last and the best."""
    best_by: Optional[str] = None
    """Verification set by whose accuracy the best checkpoint is kept; the first of val_targets when not given."""
    on_save_error: Literal["stop", "continue"] = "stop"
    """When a checkpoint cannot be written: stop, or go on with the one before it; at the end, always stop."""
    on_nonfinite: OnNonfinite = "stop"
    """When a step's loss or gradient is not finite: stop before its update, or skip:N up to N such steps."""
    log_interval: PositiveInt = 100
    """Steps between log lines."""
    val_interval: NonNegativeInt = 2000
    """Steps between verifications; 0 verifies at the end only."""
    seed: NonNegativeInt = 0
    """Key of every random draw; the same seed repeats the run."""


@dataclass
class TrainConfig(RunOptions, OptimizerOptions, HeadOptions, DataOptions, VerificationOptions, NetworkOptions):
    """Options of train.py."""


@dataclass
class ValidConfig(VerificationOptions, NetworkOptions):
    """Options of valid.py."""

    checkpoint: str = "emore_arcface"
    """Directory that train.py wrote (its --output), or any with <network>.pdparams or .safetensors."""
    report: Optional[str] = None
    """Directory for a report: index.html with tables, curves and the worst mistakes, and the curves as PNG."""
    template_flip: Literal[0, 1] = 1
    """IJB-style sets: add the embedding of the mirror image."""
    template_norm_score: Literal[0, 1] = 1
    """IJB-style sets: the norm of an image's embedding is its weight in the template; 0 normalises it."""
    template_detector_score: Literal[0, 1] = 1
    """IJB-style sets: the face detector's score is the image's weight too."""


Config = TypeVar("Config", TrainConfig, ValidConfig)


def parse(config_class: type[Config], arguments: list[str] | None = None, description: str = "") -> Config:
    """Read the options of a command from `arguments` (default: the command line).

    Raises UserError for an unknown option or key (naming the nearest one), a wrong type or a value out of range.
    """
    names = [field.name for field in fields(config_class)]
    parser = ArgumentParser(description=description, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file of the options below; flags override it.")
    for group in reversed(config_class.__mro__[:-1]):  # without object; the base classes are the groups of the help
        if own_fields := set(group.__dict__.get("__annotations__", {})):
            parser.add_class_arguments(group, skip=set(names) - own_fields)
    try:
        namespace = parser.parse_args(_config_first(sys.argv[1:] if arguments is None else arguments))
    except ArgumentError as error:
        raise UserError(_one_line(str(error), names)) from error
    return config_class(**{name: namespace[name] for name in names})


def _config_first(arguments: list[str]) -> list[str]:
    """Move --config to the front: flags win over the file wherever they stand."""
    front, rest = [], list(arguments)
    for position, argument in enumerate(arguments):
        if argument == "--config" or argument.startswith("--config="):
            front = rest[position : position + (1 if "=" in argument else 2)]
            del rest[position : position + len(front)]
            break
    return front + rest


def _one_line(message: str, names: list[str]) -> str:
    """Turn the parser's complaint into: what, where, what to do."""
    message = " ".join(message.split())
    if unknown := re.search(r"(?:unrecognized arguments: |Option ')(-*)([\w-]+)", message, re.IGNORECASE):
        dashes, name = unknown.groups()
        if not dashes and "unrecognized" in message:
            return f"unexpected argument '{name}'; options are written --name value, see --help"
        nearest = difflib.get_close_matches(name, names, n=1, cutoff=0)[0]
        return f"unknown option {dashes}{name}; did you mean {dashes}{nearest}? --help lists all"
    message = re.sub(r'^Parser key "(\w+)": ', r"--\1: ", message)
    return f"{message}; see --help"
