"""The table of bad input: a mistake ends in one line that says what, where and what to do, before anything is written.

Below it, the table of what is odd but sound: it is read, and rightly.
"""

import errno
import hashlib
import io
import json
import logging
import os
import pickle
import re
import shlex
import shutil
import signal
import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from image_lists import write_records
from PIL import Image
from tinyface_files import write_tinyface

import train
import valid
from arcface import backbones, compare, demo, embed, export, pack_bin
from arcface.data.datasets.label_list import LabelFile
from arcface.inference import checkpoint_export
from arcface.io.images import decode
from arcface.system.hardware import DeviceMemory
from arcface.training import memory
from arcface.weights import convert

NETWORK = "MobileFaceNet_128"
IMAGE = "data/images/00000000.jpg"
BACKBONE, CENTRES, MANIFEST = f"{NETWORK}.pdparams", "rank:0_softmax_weight.pkl", "checkpoint.json"

REAL_DATA = Path(os.environ.get("ARCFACE_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
YUNET = REAL_DATA / "yunet" / "face_detection_yunet.onnx"

# By the first word of a row: what is called, and the options of a run that would succeed, in a directory made by `here`.
OF_A_RUN = "--data_dir=data --logdir=log --batch_size=4 --num_workers=0 --device=cpu --engine=paddle"
COMMANDS = {
    "train": (train.main, f"{OF_A_RUN} --output=out --max_steps=1 --val_targets=tiny"),
    "resume": (train.main, f"{OF_A_RUN} --output=run --max_steps=2 --val_targets= --resume=1"),
    "valid": (valid.main, "--checkpoint=weights --data_dir=data --val_targets=tiny --device=cpu --engine=paddle"),
    "embed": (embed.main, "data/images --checkpoint=weights --output=features.npz --device=cpu --engine=paddle"),
    "compare": (compare.main, f"{IMAGE} --checkpoint=weights --threshold=0.3 --device=cpu --engine=paddle"),
    "embed_of": (embed.main, "--checkpoint=weights --output=features.npz --device=cpu --engine=paddle"),
    "compare_of": (compare.main, "--checkpoint=weights --device=cpu --engine=paddle"),
    "pack_bin": (pack_bin.main, "--images=data/images --pairs=pairs.txt --output=mine.bin"),
    "weights": (convert.main, ""),
    "demo": (demo.main, "--output=demo --identities=2 --pairs=20"),
    "export": (export.main, "--checkpoint=weights --output=exported --format=paddle"),
}


# ---- how a row prepares its files; each returns a function of the monkeypatch, called in the row's directory


def replace(path: str, content: bytes) -> None:
    Path(path).unlink(missing_ok=True)  # it may be a link to the file of all rows
    Path(path).write_bytes(content)


def file(path: str, content: bytes | str):
    return lambda _: replace(path, content if isinstance(content, bytes) else content.encode())


def listed(*lines: str):
    return file("data/label.txt", "".join(f"{line}\n" for line in lines))


def paired(*lines: str):
    return file("pairs.txt", "".join(f"{line}\n" for line in lines))


def options(content: bytes | str):
    return file("a.yaml", content)


def changed(path: str, change):
    """The file's bytes, as `change` returns them."""
    return lambda _: replace(path, change(Path(path).read_bytes()))


def cut(path: str):
    return changed(path, lambda content: content[: len(content) // 2])


def zero_tail(path: str):
    return changed(path, lambda content: content[: len(content) // 2] + bytes(len(content) // 2))


def bit_flipped(path: str):
    return changed(path, lambda content: content[:-200] + bytes([content[-200] ^ 1]) + content[-199:])


def in_place_of(path: str, make):
    """What `make` makes of a path, after what was there is gone."""

    def prepare(_):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.remove(path)
        make(path)

    return prepare


def missing(path: str):
    return in_place_of(path, lambda path: None)


def directory(path: str):
    return in_place_of(path, os.mkdir)


def pipe(path: str):
    return in_place_of(path, os.mkfifo)


def loop(path: str):
    return in_place_of(path, lambda path: os.symlink(os.path.basename(path), path))


def link_to_nothing(path: str):
    return in_place_of(path, lambda path: os.symlink("gone", path))


def recorded(_):
    """A train.rec with its train.idx and property in place of the list; two images of each of four people."""
    images = [path.read_bytes() for path in sorted(Path("data/images").iterdir())]
    write_records(RECORDS, ((number // 2, image) for number, image in enumerate(images)))
    os.remove(LIST)


def people(count: int):
    """Folders in images/, one of them without an image."""

    def prepare(_):
        for person in range(count + 1):
            os.makedirs(f"images/p{person}")
            if person < count:
                shutil.copy(IMAGE, f"images/p{person}/0.jpg")

    return prepare


def tinyface(_):
    """x/ in TinyFace's layout, but for Gallery_Distractor/."""
    shutil.rmtree(write_tinyface(Path("x")) / "Gallery_Distractor")


def environment(name: str, value: str):
    return lambda monkeypatch: monkeypatch.setenv(name, value)


def second_network(monkeypatch):
    monkeypatch.setitem(backbones.BACKBONES, "Other_128", backbones.BACKBONES[NETWORK])


def without_gpu(_):
    import paddle

    if paddle.device.is_compiled_with_cuda():
        pytest.skip("this Paddle may have a GPU")


def real_detector(_):
    if not Path(YUNET).exists():
        pytest.skip("no YuNet model; ARCFACE_REAL_DATA names the directory of real data")


def in_manifest(**entries):
    return changed(f"run/latest/{MANIFEST}", lambda content: json.dumps({**json.loads(content), **entries}).encode())


def in_checkpoint(name: str, content: object):
    """Another pickle in a checkpoint's file, with its right sha256: what an attacker, or another program, would write."""

    def prepare(_):
        pickled, manifest = pickle.dumps(content, 4), f"run/latest/{MANIFEST}"
        replace(f"run/latest/{name}", pickled)
        told = json.loads(Path(manifest).read_bytes())
        told["sha256"][name] = hashlib.sha256(pickled).hexdigest()
        replace(manifest, json.dumps(told).encode())

    return prepare


def set_of(change):
    """Another tiny.bin: the pickle of what `change` makes of its images and flags."""
    return changed("data/tiny.bin", lambda content: pickle.dumps(change(*pickle.loads(content))))


def state_of(change):
    """Other weights: the pickle of what `change` makes of the state dict."""
    return changed(f"weights/{BACKBONE}", lambda content: pickle.dumps(change(pickle.loads(content))))


def forbidden(path: str):
    """A file that this user must not read, also where root runs the tests."""

    def prepare(monkeypatch):
        real = os.open

        def open_others(name, *how, **more):
            if os.fspath(name) == path:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            return real(name, *how, **more)

        replace(path, b"secret")
        monkeypatch.setattr(os, "open", open_others)

    return prepare


def reported(**settings):
    """A report.json of one set whose pairs tell a threshold at FAR 0.1 only."""
    points = [{"far": 0.1, "tar": 0.9, "threshold": 0.25}, {"far": 1e-4, "tar": None, "threshold": None}]
    settings = {"network": NETWORK, "embedding_size": 128, **settings}
    sets = [{"name": "lfw", "negatives": 300, "tar_at_far": points}]
    return file("report.json", json.dumps({"settings": settings, "sets": sets}))


def exported(_):
    """A directory like those that arcface.export writes."""
    os.mkdir("exported")
    replace("exported/a.onnx", b"")
    replace("exported/export.json", json.dumps({"sha256": {"a.onnx": ""}}).encode())


def without_onnx(monkeypatch):
    missing = ("paddle2onnx", "onnx")
    monkeypatch.setattr(checkpoint_export, "find_spec", lambda name: None if name in missing else name)


class Attack:
    def __reduce__(self):
        return os.system, ("touch attacked",)


HUGE = struct.pack("<2sIHHIIIIHHIIIIII", b"BM", 54, 0, 0, 54, 40, 99999, 99999, 1, 24, 0, 0, 0, 0, 0, 0)  # a BMP's header
PNG_250 = cv2.imencode(".png", np.zeros((250, 250, 3), np.uint8))[1].tobytes()

A, B = "images/00000000.jpg", "images/00000001.jpg"
PNG_1 = cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))[1].tobytes()
LINE_A, LINE_B = f"{A}\t0", f"{B}\t1"
LIST = "data/label.txt"
RECORDS = "data/train.rec"
LISTED = "--val_dir=. --val_targets=pairs.txt=data/images"

# id, command line (after what `COMMANDS` has), a part of the complaint, what prepares the files
TABLE = [
    # ---- flags: names
    ("unknown", "train --lrr=1", "unknown option --lrr; did you mean --lr?"),
    ("of another program", "train --learning-rate 1", "unknown option --learning-rate; did you mean --decay_rate?"),
    ("abbreviated", "train --embedding 64", "unknown option --embedding; did you mean --embedding_size?"),
    ("upper case", "train --LR=1", "unknown option --LR; did you mean --lr?"),
    ("one dash", "train -lr=1", "unknown option -lr; did you mean --lr?"),
    ("a dash out of a text processor", "train —lr=1", "unexpected argument '—lr'; options are written --name value"),
    ("no dash", "train lr", "unexpected argument 'lr'; options are written --name value"),
    ("two dashes alone", "train -- x", "unexpected argument '--'"),
    ("of valid.py", "train --checkpoint=run", "unknown option --checkpoint"),
    ("of train.py", "valid --lr=1", "unknown option --lr"),
    ("label file to valid.py", "valid --label_file=label.txt", "unknown option --label_file"),
    ("no value", "train --lr", "--lr: has no value; pass one or leave the option out"),
    # ---- flags: types and ranges
    ("word for a number", "train --lr=fast", "--lr: must be a number from 0 up, not fast"),
    ("decimal comma", "train --lr=0,1", "--lr: must be a number from 0 up, not 0,1"),
    ("not a number", "train --lr=nan", "--lr: must be a number from 0 up, not nan"),
    ("infinite", "train --weight_decay=inf", "--weight_decay: must be a number from 0 up, not inf"),
    ("1e999", "train --lr=1e999", "--lr: must be a number from 0 up, not 1e999"),
    ("1e999 epochs of warm-up", "train --warmup_epoch=1e999", "--warmup_epoch: must be a number from 0 up, not 1e999"),
    ("1e999 in a list", "train --decay_epochs=[6,1e999]", "--decay_epochs: must be a number from 0 up, not 1e999"),
    (
        "a list without brackets",
        "train --decay_epochs=6,12",
        "--decay_epochs: must be a list, each a number from 0 up, as in [6,12], not 6,12",
    ),
    ("negative rate", "train --lr=-1", "--lr: must be a number from 0 up, not -1"),
    ("sample rate 0", "train --sample_rate=0", "--sample_rate: must be a number above 0 and at most 1, not 0"),
    ("sample rate 1.5", "train --sample_rate=1.5", "--sample_rate: must be a number above 0 and at most 1, not 1.5"),
    ("momentum 1", "train --momentum=1", "--momentum: must be a number from 0 up and below 1, not 1"),
    ("probability 1.5", "train --augment_crop=1.5", "--augment_crop: must be a number from 0 to 1, not 1.5"),
    ("margin in degrees", "train --margin2=28.6", "--margin2: must be an angle in radians, from 0 to pi, not 28.6"),
    ("margin beyond all cosines", "train --margin3=3", "--margin3: must be a number from 0 to 2, not 3"),
    ("scale 0", "train --scale=0", "--scale: must be a number above 0, not 0"),
    ("batch of 0", "train --batch_size=0", "--batch_size: must be a whole number from 1 to 65536, not 0"),
    ("batch of 1e-3", "train --batch_size=1e-3", "--batch_size: must be a whole number from 1 to 65536, not 1e-3"),
    ("batch of 64.5", "train --batch_size=64.5", "--batch_size: must be a whole number from 1 to 65536, not 64.5"),
    (
        "parts of unequal size",
        "train --accumulate=3",
        "--accumulate 3: must divide the 4 images of --batch_size that a rank has; use 2",
    ),
    ("average that never moves", "train --ema=1", "--ema: must be a number from 0 up and below 1, not 1"),
    ("batch beyond all memory", "train --batch_size=99999999999999999999", "--batch_size: must be a whole number from 1 to 65536"),
    (
        "rate with digits too many",
        "train --lr=99999999999",
        "--lr: must be a number from 0 up, at most 1,000,000,000, not 99999999999",
    ),
    ("value that is the next flag", "train --lr --seed=1", "--lr: has no value; pass one"),
    (
        "embedding beyond all memory",
        "train --embedding_size=1000000000",
        "--embedding_size: must be a whole number from 1 to 65536",
    ),
    (
        "more workers than processes",
        "train --num_workers=100000",
        "--num_workers: must be a whole number from 0 to 1024, not 100000",
    ),
    ("negative seed", "train --seed=-1", "--seed: must be a whole number from 0 up and below 2**63, not -1"),
    ("seed of 30 digits", f"train --seed={'9' * 30}", "--seed: must be a whole number from 0 up and below 2**63, not 9999"),
    ("0 classes", "train --num_classes=0", "--num_classes: must be a whole number from 1 up, not 0"),
    ("max_steps none", "train --max_steps=none", "--max_steps: must be a whole number from 1 up, not none"),
    ("resume 2", "train --resume=2", "--resume: must be 0 or 1, not 2"),
    ("resume yes", "train --resume=yes", "--resume: must be 0 or 1, not yes"),
    ("another device", "train --device=tpu", "--device: must be auto, cpu, gpu or gpu:N, as in gpu:0, not tpu"),
    ("GPU without a number", "valid --device=gpu:x", "--device: must be auto, cpu, gpu or gpu:N, as in gpu:0, not gpu:x"),
    (
        "another engine",
        "valid --engine=tensorrt",
        "--engine: must be auto, openvino, paddle-inference, onnxruntime or paddle, not tensorrt",
    ),
    ("another schedule", "train --schedule=linear", "--schedule: must be step, poly or cosine, not linear"),
    ("precision of another name", "train --precision=half", "--precision: must be float32, bf16 or fp16, not half"),
    ("skip without a number", "train --on_nonfinite=skip", "--on_nonfinite: must be stop, or skip:N with N from 1 up, not skip"),
    (
        "profile of no step",
        "train --profile=9:9",
        "--profile: must be FIRST:END, as in 100:110, with FIRST from 1 up and below END, not 9:9",
    ),
    ("profile of steps to come", "train --profile=9:12", "--profile 9:12: the run ends with step 1; choose earlier steps"),
    ("profile without an end", "train --profile=9", "--profile: must be FIRST:END, as in 100:110,"),
    ("profile of step 0", "train --profile=0:9", "--profile: must be FIRST:END, as in 100:110,"),
    ("flip 2", "valid --template_flip=2", "--template_flip: must be 0 or 1, not 2"),
    *(
        (f"empty {name}", f"train --{name}=", f"--{name}: has no value; pass one or leave the option out")
        for name in ("network", "data_dir", "label_file", "val_dir", "output", "logdir", "init_from")
    ),
    ("blank output", "train --output=' '", "--output: has no value"),
    ("empty report", "valid --report=", "--report: has no value"),
    ("empty checkpoint", "valid --checkpoint=", "--checkpoint: has no value"),
    # ---- flags: together and with this machine
    (
        "ranks without endpoints",
        "train",
        "PADDLE_TRAINERS_NUM=3 is set without PADDLE_TRAINER_ID and PADDLE_CURRENT_ENDPOINT and",
        environment("PADDLE_TRAINERS_NUM", "3"),
    ),
    ("stage", "train --freeze=stem,stage9", "--freeze stage9: no stage of this network; name some of stem, stage1,"),
    ("patience without sets", "train --patience=2 --val_targets=", "--patience 2: --val_targets names no sets; verify during"),
    ("patience at the end", "train --patience=2 --val_interval=0", "--patience 2: --val_interval 0 verifies at the end only; v"),
    ("optimizer", "train --optimizer=adam", "--optimizer: must be sgd or adamw, not adam"),
    ("beta2", "train --adam_beta2=1", "--adam_beta2: must be a number from 0 up and below 1, not 1"),
    ("scale of the head's rate", "train --head_lr_scale=-1", "--head_lr_scale: must be a number from 0 up, not -1"),
    ("best by a set that is not verified", "train --best_by=lfw", "--best_by lfw: not among --val_targets (tiny); name one"),
    (
        "blocks of a balanced order",
        "train --shuffle=blocks --sampling=balanced",
        "--shuffle blocks and --sampling balanced: the images of a balanced batch lie anywhere; leave one of them out",
    ),
    ("bf16 on a CPU", "train --precision=bf16", "--precision bf16: a CPU trains in float32; use --precision float32 or a GPU, or,"),
    ("fp16 on a CPU", "train --precision=fp16", "--precision fp16: a CPU trains in float32; use --precision float32 or a GPU, or,"),
    ("no GPU", "train --device=gpu", "--device gpu: paddlepaddle", without_gpu),
    ("no fourth GPU", "valid --device=gpu:3", "--device gpu:3: paddlepaddle", without_gpu),
    ("no such network", "train --network=ResNet", "--network ResNet: no such backbone; did you mean iresnet"),
    ("a path for a network", "valid --network=../x", "--network ../x: no such backbone; did you mean "),
    ("long network", f"valid --network={'x' * 300}", f"--network {'x' * 300}: no such backbone"),
    (
        "fewer classes than labels",
        "train --num_classes=3",
        f"{LIST} line 4: label 3 is not below --num_classes 3; leave the option",
    ),
    # ---- the file of options
    ("no file", "train --config", "--config: names no file; pass a YAML file"),
    ("empty file name", "train --config=", "--config: names no file"),
    ("two files", "train --config=a.yaml --config=b.yaml", "--config: given twice; pass one file"),
    ("missing file", "train --config=a.yaml", "--config a.yaml: No such file or directory; pass a YAML file"),
    ("directory for a file", "train --config=data", "--config data: Is a directory; pass a YAML file"),
    ("pipe for a file", "train --config=a.yaml", "--config a.yaml: Not a regular file; pass", pipe("a.yaml")),
    ("empty file", "train --config=a.yaml", "--config a.yaml: contains no options; write lines of", options("# none\n")),
    ("list in a file", "train --config=a.yaml", "--config a.yaml: contains no options; write", options("- lr\n- 1\n")),
    ("text in a file", "train --config=a.yaml", "--config a.yaml: contains no options; write", options("lr = 0.1\n")),
    ("binary file", "train --config=a.yaml", "--config a.yaml: byte 0 is not UTF-8 text; pass", options(b"\xff\xfe\0l")),
    ("not YAML", "train --config=a.yaml", "--config a.yaml line 2: expected ',' or ']'", options("lr: [1\n")),
    ("tab in YAML", "train --config=a.yaml", "--config a.yaml line 2: found character '\\t'", options("lr: 1\n\tseed: 2\n")),
    ("option twice", "train --config=a.yaml", "--config a.yaml line 2: lr is given twice; remove", options("lr: 0.1\nlr: 0.2\n")),
    ("alias of itself", "train --config=a.yaml", "--config a.yaml: has an alias (*name); write", options("output: &a [*a]\n")),
    (
        "tag that runs a program",
        "train --config=a.yaml",
        "--config a.yaml line 1: could not determine a constructor for the tag",
        options("lr: !!python/object/apply:os.system ['touch attacked']\n"),
    ),
    ("unknown in a file", "train --config=a.yaml", "a.yaml: unknown option lrr; did you mean lr?", options("lrr: 1\n")),
    ("word in a file", "train --config=a.yaml", "a.yaml: --lr: must be a number from 0 up, not fast", options("lr: fast\n")),
    ("list for a number", "train --config=a.yaml", "a.yaml: --lr: must be a number from 0 up, not a list", options("lr: [1]\n")),
    ("number for a path", "train --config=a.yaml", "a.yaml: --output: must be text; put it in quotes", options("output: 123\n")),
    (
        "list of sets",
        "train --config=a.yaml",
        "a.yaml: --val_targets: must be names separated by commas, not a list",
        options("val_targets: [lfw, cfp_fp]\n"),
    ),
    (
        "off for text",
        "train --config=a.yaml",
        "a.yaml: --cpu_kernels: must be auto or off, in quotes",
        options("cpu_kernels: off\n"),
    ),
    (
        "list with null",
        "train --config=a.yaml",
        "--decay_epochs: must be a number from 0 up, not null",
        options("decay_epochs: [~]\n"),
    ),
    ("mapping for a number", "train --config=a.yaml", "--lr: must be a number from 0 up, not a mapping", options("lr: {a: 1}\n")),
    ("null", "train --config=a.yaml", "a.yaml: --lr: has no value; pass one", options("lr: null\n")),
    ("zero byte", "train --config=a.yaml", "a.yaml: --output: contains a zero byte; correct", options('output: "a\\0b"\n')),
    # ---- the list of training images
    ("no list", "train --data_dir=nowhere", "nowhere/label.txt: No such file or directory; pass the dataset with --data_dir"),
    ("no list of that name", "train --label_file=nothing.txt", "data/nothing.txt: No such file"),
    ("dataset that is a file", "train --data_dir=data/tiny.bin", "data/tiny.bin/label.txt: Not a directory; pass"),
    ("list that is a directory", "train", f"{LIST}: Is a directory; pass", directory(LIST)),
    ("list that is a pipe", "train", f"{LIST}: Not a regular file; pass", pipe(LIST)),
    ("list that is a device", "train --label_file=/dev/zero", "/dev/zero: Not a regular file; pass"),
    ("list that is a link to itself", "train", f"{LIST}: Too many levels of symbolic links; pass", loop(LIST)),
    ("list that is a link to nothing", "train", f"{LIST}: No such file or directory; pass", link_to_nothing(LIST)),
    ("empty list", "train", f"{LIST}: lists no images; each line is", file(LIST, "")),
    ("list of comments", "train", f"{LIST}: lists no images; each line is", listed("# images", "", " \t ")),
    ("UTF-16", "train", f"{LIST} line 1: contains a zero byte", file(LIST, f"{LINE_A}\n{LINE_B}\n".encode("utf-16"))),
    ("zero byte in a path", "train", f"{LIST} line 2: contains a zero byte", listed(LINE_A, "ima\0ges/1.jpg\t1")),
    ("no label", "train", f"{LIST} line 2: '{B}' is not a path, a tab and a whole number; correct", listed(LINE_A, B)),
    ("header", "train", f"{LIST} line 1: 'path label' is not a path", listed("path label", LINE_A)),
    ("commas", "train", f"{LIST} line 1: '{A},0' is not a path", listed(f"{A},0", f"{B},1")),
    ("label first", "train", f"{LIST} line 1: '0 {A}' is not a path", listed(f"0\t{A}", f"1\t{B}")),
    ("label 1.5", "train", f"{LIST} line 2: '{B} 1.5' is not a path", listed(LINE_A, f"{B}\t1.5")),
    ("negative label", "train", f"{LIST} line 2: '{B} -1' has a label that is not a class number", listed(LINE_A, f"{B}\t-1")),
    ("label of 10 digits", "train", f"{LIST} line 2: '{B} 9999999999' has a label that", listed(LINE_A, f"{B}\t9999999999")),
    ("label of 30 digits", "train", f"{LIST} line 2: '{B} 99999", listed(LINE_A, f"{B}\t{'9' * 30}")),
    ("label of two billion", "train", f"{LIST} line 2: labels must count up from 0", listed(LINE_A, f"{B}\t2147483647")),
    (
        "gap in the labels",
        "train",
        f"{LIST} line 2: labels must count up from 0 without a gap, but no line has label 1",
        listed(LINE_A, f"{B}\t2"),
    ),
    (
        "labels from 1",
        "train",
        f"{LIST} line 1: labels must count up from 0 without a gap, but no line has label 0 (the highest is 2); relabel",
        listed(f"{A}\t1", f"{B}\t2"),
    ),
    ("one person", "train", f"{LIST}: all images are of one identity, label 0; list", listed(LINE_A, f"{B}\t0")),
    (
        "image with two labels",
        "train",
        f"{LIST} lines 1 and 3: {A} has label 0 and label 1; remove",
        listed(LINE_A, LINE_B, f"{A} 1"),
    ),
    ("line of a megabyte", "train", f"{LIST} line 2: 'xxx", listed(LINE_A, "x" * 10**6 + "\t1")),
    ("garbage", "train", f"{LIST} line 1: ", file(LIST, bytes(range(1, 256)))),
    (
        "absolute path",
        "train",
        f"{LIST} line 2: /etc/passwd: leads out of --data_dir; correct it",
        listed(LINE_A, "/etc/passwd\t1"),
    ),
    ("path that climbs out", "train", f"{LIST} line 2: ../secret.jpg: leads out of", listed(LINE_A, "../secret.jpg\t1")),
    (
        "path that climbs out late",
        "train",
        f"{LIST} line 2: images/../../x.jpg: leads out of --data_dir; correct it, or allow it with --outside_paths 1",
        listed(LINE_A, "images/../../x.jpg\t1"),
    ),
    ("parent directory", "train", f"{LIST} line 2: ..: leads out of --data_dir", listed(LINE_A, "..\t1")),
    (
        "backslashes",
        "train",
        f"{LIST} line 1: images\\00000000.jpg: no such file; one with slashes in place of"
        f" its backslashes exists: replace them in the list, as in: sed -i 's|\\\\|/|g' {LIST}",
        listed("images\\00000000.jpg\t0", LINE_B),
    ),
    ("name that commands a terminal", "train", f"{LIST} line 1: \\x1b[2J.jpg: no such file", listed("\033[2J.jpg\t0", LINE_B)),
    # ---- the training images
    ("missing image", "train", f"{LIST} line 1: {A}: no such file; restore it or remove the line", missing(IMAGE)),
    ("missing directory", "train", f"{LIST} line 1: {A}: no such file; restore", missing("data/images")),
    ("directory that is a link to itself", "train", f"{LIST} line 1: {A}: no such file; restore", loop("data/images")),
    ("image that is a directory", "train", f"{LIST} line 1: {A}: Is a directory; restore", directory(IMAGE)),
    ("image that is a pipe", "train", f"{LIST} line 1: {A}: Not a regular file; restore", pipe(IMAGE)),
    ("image that is a link to itself", "train", f"{LIST} line 1: {A}: Too many levels of symbolic links; restore", loop(IMAGE)),
    ("image that is a link to nothing", "train", f"{LIST} line 1: {A}: No such file or directory; restore", link_to_nothing(IMAGE)),
    ("path of a directory", "train", f"{LIST} line 2: images: Is a directory; restore", listed(LINE_A, "images\t1")),
    ("empty image", "train", f"{LIST} line 1: {A}: not an image that OpenCV can decode (0 bytes); replace", file(IMAGE, b"")),
    ("text for an image", "train", f"{LIST} line 2: label.txt: not an image", listed(LINE_A, "label.txt\t1")),
    ("page of an error for an image", "train", f"{LIST} line 1: {A}: not an image", file(IMAGE, "<html>404 Not Found</html>")),
    ("truncated image", "train", f"{LIST} line 1: {A}: truncated image", cut(IMAGE)),
    ("image whose end is zeros", "train", f"{LIST} line 1: {A}: truncated image", zero_tail(IMAGE)),
    ("image not aligned", "train", f"{LIST} line 1: {A}: the image is 250x250 pixels, not 112x112; align", file(IMAGE, PNG_250)),
    # ---- other layouts
    ("no record file", "train --data_dir=no.rec", "no.rec: cannot be read (No such file or directory); correct"),
    ("record file that is a pipe", "train", f"{RECORDS}: cannot be read (Not a regular file); correct", recorded, pipe(RECORDS)),
    ("empty record file", "train", f"{RECORDS}: 0 bytes are no RecordIO file", recorded, file(RECORDS, "")),
    ("record file cut off", "train", "data/train.idx line 6: '6 ", recorded, cut(RECORDS)),
    (
        "page of an error for a record file",
        "train",
        f"{RECORDS} byte 0: no record begins here; download the file again, and its index",
        recorded,
        file(RECORDS, "<html>404 Not Found</html>  "),
        file("data/train.idx", "0\t0\n"),
    ),
    (
        "three numbers in an index",
        "train",
        "data/train.idx line 2: '3 4 5' is not a key, a tab and a byte offset; download",
        recorded,
        file("data/train.idx", "0\t0\n3\t4 5\n"),
    ),
    (
        "index of another record file",
        "train",
        f"{RECORDS} byte 8: no record begins here; download",
        recorded,
        file("data/train.idx", "0\t8\n1\t0\n"),
    ),
    (
        "property of another dataset",
        "train",
        "data/property: '5,112,112' where the records say '4,112,112'; download",
        recorded,
        file("data/property", "5,112,112\n"),
    ),
    ("fewer classes than records' labels", "train --num_classes=3", "label 3 is not below --num_classes 3; leave", recorded),
    ("folder of one person", "train --data_dir=images", "images: all images are of one identity, label 0; list", people(1)),
    (
        "folders with an image that is none",
        "train --data_dir=images --val_targets=",
        "images/p1/0.jpg: not an image",
        people(2),
        file("images/p1/0.jpg", "text"),
    ),
    (
        "table without its columns",
        "train --label_file=a.csv",
        "data/a.csv: no table of columns path and label",
        file("data/a.csv", "a,b\n"),
    ),
    # ---- where it writes
    ("output below a file", f"train --output={LIST}/out", f"{LIST}/out cannot be written (Not a directory); choose"),
    ("output that is a file", f"train --output={LIST}", f"{LIST} cannot be written (File exists); choose another directory"),
    (
        "output that is a link to itself",
        "train",
        "--output out and --logdir log: out cannot be written (File exists); choose",
        loop("out"),
    ),
    ("output that nobody can write", "train --output=/proc/nowhere", "/proc/nowhere cannot be written"),
    ("logdir that is a file", f"train --logdir={LIST}", f"{LIST} cannot be written (File exists); choose another directory"),
    ("logdir below a file", f"train --logdir={LIST}/log", f"{LIST}/log cannot be written (Not a directory); choose"),
    (
        "log that is a pipe",
        "train --output=old",
        "old/training.log cannot be written (Not a regular file); choose",
        in_place_of("old", os.mkdir),
        in_place_of("old/training.log", os.mkfifo),
    ),
    (
        "metrics that are a directory",
        "train --logdir=old",
        "old/metrics.jsonl cannot be written (Not a regular file); choose",
        in_place_of("old", os.mkdir),
        in_place_of("old/metrics.jsonl", os.mkdir),
    ),
    (
        "ranks without a number",
        "train",
        "PADDLE_TRAINERS_NUM=x: must be a whole number; leave it to paddle.distributed.launch",
        lambda monkeypatch: monkeypatch.setenv("PADDLE_TRAINERS_NUM", "x"),
    ),
    (
        "more classes than memory holds",
        "train --num_classes=2000000000",
        "data: the centres of 2000000000 classes and their"
        " momentum do not fit into memory (2048.0 GB a rank); correct --num_classes",
    ),
    ("name too long", f"train --output={'x' * 300}", f"{'x' * 300} cannot be written (File name too long); choose"),
    # ---- weights to start from
    ("no weights", "train --init_from=nothing.pdparams", "nothing.pdparams: cannot be read (No such file or directory); pass a"),
    ("weights that are a directory", "train --init_from=weights", "weights: cannot be read (Is a directory); pass a"),
    (
        "weights that are a pipe",
        f"train --init_from=weights/{BACKBONE}",
        f"weights/{BACKBONE}: cannot be read (Not a regular file); pass",
        pipe(f"weights/{BACKBONE}"),
    ),
    (
        "damaged weights",
        "train --init_from=a.pdparams",
        "a.pdparams: truncated, damaged or not a pickle",
        file("a.pdparams", b"damaged"),
    ),
    (
        "damaged safetensors",
        "train --init_from=a.safetensors",
        "a.safetensors: not a safetensors file, or a damaged one",
        file("a.safetensors", b"damaged"),
    ),
    (
        "weights of another size",
        f"train --init_from=weights/{BACKBONE} --embedding_size=64",
        f"weights/{BACKBONE}: linear1.conv.weight has shape [128, 512, 1, 1], this network's is [64, 512, 1, 1], and 4 more",
    ),
    (
        "weights of another network",
        f"train --init_from=weights/{BACKBONE}",
        f"weights/{BACKBONE}: weights of another network: 283 names missing",
        state_of(lambda state: {"weight": np.zeros((2, 3), np.float32)}),
    ),
    # ---- checkpoints
    ("no checkpoint", "train --resume=1", "out: no checkpoint to resume from"),
    ("output that is a file, to resume", f"train --resume=1 --output={LIST}", f"{LIST}: no checkpoint to resume from"),
    ("latest is a link to nothing", "resume", "run: no checkpoint to resume from", link_to_nothing("run/latest")),
    ("latest is a link to itself", "resume", "run: no checkpoint to resume from", loop("run/latest")),
    (
        "file of a rank is missing",
        "resume",
        f"run/latest: incomplete checkpoint, missing {CENTRES}; restore",
        missing(f"run/latest/{CENTRES}"),
    ),
    (
        "momentum is missing",
        "resume",
        "run/latest: incomplete checkpoint, missing rank:0_softmax_weight_mom.pkl; restore",
        missing("run/latest/rank:0_softmax_weight_mom.pkl"),
    ),
    (
        "backbone is missing",
        "resume",
        f"run/latest: incomplete checkpoint, missing {BACKBONE}; restore",
        missing(f"run/latest/{BACKBONE}"),
    ),
    ("truncated centres", "resume", f"run/latest/{CENTRES}: damaged (its sha256", cut(f"run/latest/{CENTRES}")),
    ("bit-flipped centres", "resume", f"run/latest/{CENTRES}: damaged (its sha256", bit_flipped(f"run/latest/{CENTRES}")),
    ("truncated backbone", "resume", f"run/latest/{BACKBONE}: damaged (its sha256", cut(f"run/latest/{BACKBONE}")),
    ("bit-flipped backbone", "resume", f"run/latest/{BACKBONE}: damaged (its sha256", bit_flipped(f"run/latest/{BACKBONE}")),
    ("truncated manifest", "resume", f"run/latest/{MANIFEST}: damaged (", cut(f"run/latest/{MANIFEST}")),
    ("empty manifest", "resume", f"run/latest/{MANIFEST}: damaged (Expecting", file(f"run/latest/{MANIFEST}", "")),
    ("manifest that is a list", "resume", f"run/latest/{MANIFEST}: format of another kind", file(f"run/latest/{MANIFEST}", "[1]")),
    ("manifest without classes", "resume", f"run/latest/{MANIFEST}: damaged (progress, classes", in_manifest(classes_of_rank=[])),
    ("manifest with a negative step", "resume", f"run/latest/{MANIFEST}: damaged (", in_manifest(progress={"step": -5})),
    ("manifest with a list of files", "resume", f"run/latest/{MANIFEST}: damaged (", in_manifest(sha256=[])),
    ("manifest of the future", "resume", f"run/latest/{MANIFEST}: format 2 is not 1; update arcface", in_manifest(format=2)),
    (
        "manifest with other classes",
        "resume",
        f"run/latest/{CENTRES}: does not contain the classes 0 to 6; restore",
        in_manifest(classes_of_rank=[[0, 7]]),
    ),
    (
        "list for centres",
        "resume",
        f"run/latest/{CENTRES}: not finite float32 [classes, embedding_size]; restore",
        in_checkpoint(CENTRES, [1, 2, 3, 4]),
    ),
    (
        "centres that run a program",
        "resume",
        f"{CENTRES}: refused, because it asks for posix.system",
        in_checkpoint(CENTRES, Attack()),
    ),
    (
        "backbone of another network",
        "resume",
        "run/latest: weights of another network: 283 names missing",
        in_checkpoint(BACKBONE, {}),
    ),
    (
        "another network",
        "resume --network=Other_128",
        f"run/latest was trained with network {NETWORK}, not Other_128; resume with the same network",
        second_network,
    ),
    ("another size", "resume --embedding_size=64", "run/latest was trained with embedding_size 128, not 64; resume with"),
    ("another batch", "resume --batch_size=8", "run/latest was trained with batch_size 4, not 8; resume with"),
    ("another seed", "resume --seed=1", "run/latest was trained with seed 0, not 1; resume with"),
    ("more classes", "resume --num_classes=7", "run/latest was trained with num_classes 4, not 7; resume with"),
    (
        "other labels",
        "resume --num_classes=4",
        "run/latest was trained on 8 images of 4 identities, now there are 2 images of 2 identities; resume with",
        listed(LINE_A, LINE_B),
    ),
    # ---- verification sets
    (
        "no set",
        "train --val_targets=lfw",
        "data/lfw.bin: cannot be read (No such file or directory); correct --val_targets, --val_dir",
    ),
    ("no set to verify", "valid --val_targets=tiny,lfw", "data/lfw.bin: cannot be read (No such file or directory); correct"),
    ("no directory of sets", "train --val_dir=nowhere", "nowhere/tiny.bin: cannot be read"),
    ("no sets", "valid --val_targets=", "--val_targets is empty: name at least one verification set"),
    ("set of a long name", f"valid --val_targets={'x' * 300}", ".bin: cannot be read (File name too long); correct --val_targets"),
    (
        "two sets of one name",
        "valid --val_targets=a/lfw,b/lfw",
        "--val_targets: several sets are named lfw; rename one or leave it out",
    ),
    (
        "protocol without its lists",
        "valid --val_targets=images",
        "data/images/meta/*_face_tid_mid.txt: no such file; pass a protocol",
        directory("data/images/meta"),
    ),
    ("protocol to train by", "train --val_dir=. --val_targets=x", "x is a protocol, which only valid.py verifies; leave", tinyface),
    ("protocol without its folder", "valid --val_dir=. --val_targets=x", "x/Gallery_Distractor: No such file", tinyface),
    ("folder of no folders", "valid --val_targets=images", "data/images: contains no folders of images; pass a directory"),
    ("folder of one person", "valid --val_dir=. --val_targets=images", "images: all images are of one identity", people(1)),
    (
        "folder of single images",
        "train --val_dir=. --val_targets=images",
        "images: 0 of its 8 identities have two images or more; the accuracy needs pairs of at least four identities",
        people(8),
    ),
    ("folder that does not exist", "train --val_targets=nobody", "data/nobody.bin: cannot be read (No such file or directory)"),
    (
        "list without a folder",
        "valid --val_targets=pairs.txt=",
        "--val_targets pairs.txt=: is not LIST=FOLDER, as in",
    ),
    ("list that does not exist", "train --val_dir=. --val_targets=no.txt=data", "no.txt: No such file or directory; pass the list"),
    ("folder of a list that does not exist", f"valid {LISTED}x", "data/imagesx: no such directory; correct --val_targets LIST="),
    ("list of no pairs", f"train {LISTED}", "pairs.txt: lists no pairs; each line is", paired()),
    ("list of one kind", f"valid {LISTED}", "pairs.txt: all 1 pairs show the same identity", paired("00000000.jpg 00000001.jpg 1")),
    (
        "listed image that is missing",
        f"train {LISTED}",
        "pairs.txt line 1: 00000000.jpg: no such file in data/images",
        missing(IMAGE),
    ),
    ("listed image that is truncated", f"valid {LISTED}", f"{IMAGE}: truncated image", cut(IMAGE)),
    (
        "listed photo without a detector",
        f"valid {LISTED}",
        f"{IMAGE}: the image is 250x250 pixels, not a 112x112 crop; pass a --detector",
        file(IMAGE, PNG_250),
    ),
    (
        "detector that is none",
        f"train {LISTED} --detector=pairs.txt",
        "--detector pairs.txt: OpenCV cannot open it as",
    ),
    ("list and set of one name", f"valid {LISTED},images", "--val_targets: several sets are named images; rename one"),
    ("set that is a directory", "valid", "data/tiny.bin: cannot be read (Is a directory); correct", directory("data/tiny.bin")),
    ("set that is a pipe", "valid", "data/tiny.bin: cannot be read (Not a regular file); correct", pipe("data/tiny.bin")),
    ("set that is a link to itself", "valid", "data/tiny.bin: cannot be read (Too many levels", loop("data/tiny.bin")),
    ("empty set", "valid", "data/tiny.bin: truncated, damaged or not a pickle", file("data/tiny.bin", b"")),
    (
        "truncated set",
        "valid",
        "data/tiny.bin: truncated, damaged or not a pickle (unexpected end of file); download it again",
        cut("data/tiny.bin"),
    ),
    (
        "page of an error for a set",
        "train",
        "data/tiny.bin: truncated, damaged or not a pickle",
        file("data/tiny.bin", "<html>404</html>"),
    ),
    (
        "odd set",
        "train",
        "data/tiny.bin: 7 images for 4 pairs, not two a pair; pack",
        set_of(lambda images, same: (images[:7], same)),
    ),
    ("set without pairs", "valid", "data/tiny.bin: contains no pairs; download", set_of(lambda images, same: ([], []))),
    (
        "set of one kind",
        "valid",
        "data/tiny.bin: all 4 pairs show the same identity",
        set_of(lambda images, same: (images, [1] * 4)),
    ),
    (
        "flag that is 2",
        "valid",
        "data/tiny.bin: not a verification set, pickle((images, is_same)): the flag of pair 3 is neither true",
        set_of(lambda images, same: (images, [1, 0, 1, 2])),
    ),
    ("dict for a set", "valid", "data/tiny.bin: not a verification set", set_of(lambda images, same: {"images": images})),
    ("set that runs a program", "valid", "data/tiny.bin: refused, because it asks for posix.system", set_of(lambda *_: Attack())),
    (
        "truncated image in a set",
        "valid --report=report",
        "tiny.bin image 7: truncated image",
        set_of(lambda images, same: ([*images[:7], images[7][:-300]], same)),
    ),
    (
        "image in a set not aligned",
        "train",
        "tiny.bin image 7: the image is 250x250 pixels",
        set_of(lambda images, same: ([*images[:7], PNG_250], same)),
    ),
    # ---- weights to verify, and the report
    (
        "no directory of weights",
        "valid --checkpoint=nowhere",
        f"nowhere: looked for {BACKBONE} and {NETWORK}.safetensors, found neither",
    ),
    ("no weights in it", "valid --checkpoint=data", f"data: looked for {BACKBONE} and {NETWORK}.safetensors, found neither"),
    ("file for its directory", f"valid --checkpoint=weights/{BACKBONE}", f"weights/{BACKBONE}: is a file; pass its directory"),
    ("pipe for weights", "valid", f"weights/{BACKBONE}: cannot be read (Not a regular file); pass", pipe(f"weights/{BACKBONE}")),
    ("truncated weights", "valid", f"weights/{BACKBONE}: truncated, damaged or not a pickle", cut(f"weights/{BACKBONE}")),
    (
        "weights that run a program",
        "valid",
        f"weights/{BACKBONE}: refused, because it asks for posix.system",
        state_of(lambda _: Attack()),
    ),
    ("list for weights", "valid", f"weights/{BACKBONE}: not a state dict; it must be", state_of(lambda state: list(state))),
    (
        "whole numbers for weights",
        "valid",
        f"weights/{BACKBONE}: conv1.conv.weight is of type int64, not floating point; download",
        state_of(lambda state: {**state, "conv1.conv.weight": state["conv1.conv.weight"].astype(np.int64)}),
    ),
    (
        "weights that are not finite",
        "valid",
        f"weights/{BACKBONE}: 'conv1.conv.weight' contains values that are not finite as float32; download",
        state_of(lambda state: {**state, "conv1.conv.weight": state["conv1.conv.weight"] * np.float32(np.nan)}),
    ),
    (
        "another size to verify",
        "valid --embedding_size=64",
        f"weights/{BACKBONE}: linear1.conv.weight has shape [128, 512, 1, 1], this",
    ),
    ("manifest that is a list", "valid", f"weights/{MANIFEST}: damaged", file(f"weights/{MANIFEST}", "[1]")),
    (
        "manifest with 1e999 steps",
        "valid",
        f"weights/{MANIFEST}: damaged",
        file(f"weights/{MANIFEST}", '{"progress": {"step": 1e999}}'),
    ),
    (
        "report that is a file",
        f"valid --report={LIST}",
        f"--report {LIST}: cannot be written (File exists); choose another directory",
    ),
    ("report that nobody can write", "valid --report=/proc/nowhere", "--report /proc/nowhere: cannot be written"),
    # ---- python -m arcface.embed and compare: options
    ("embed: nothing to embed", "embed --output=x.npz other", "unexpected argument 'other'"),
    ("embed: no such folder", "embed_of nowhere", "nowhere: no such file or folder; pass images to embed"),
    ("embed: no such set", "embed_of no.bin", "no.bin: no such file or folder; pass images to embed"),
    ("embed: pipe", "embed_of b.jpg", "b.jpg: none of 1 images can be embedded; the first: b.jpg: Not a regular", pipe("b.jpg")),
    ("embed: folder without images", "embed_of weights", "weights: contains no image; pass another folder, a list or an image"),
    ("embed: empty list", "embed_of a.txt", "a.txt: lists no image; each line is a path", file("a.txt", "# none")),
    ("embed: list that is a pipe", "embed_of a.txt", "a.txt: Not a regular file; pass a list of images", pipe("a.txt")),
    ("embed: list that is forbidden", "embed_of a.txt", "a.txt: Permission denied; pass a list of images", forbidden("a.txt")),
    ("embed: damaged records", "embed_of data/train.rec", f"{RECORDS}: ", file("data/train.rec", b"no records")),
    ("embed: another ending", "embed --output=features.csv", "--output features.csv: must end in .npz, .npy or .parquet"),
    ("embed: output without a directory", "embed --output=no/f.npz", "--output no/f.npz: its directory does not exist; create it"),
    ("embed: output that exists", "embed", "--output features.npz: exists already; remove it", file("features.npz", b"mine")),
    (
        "embed: list that exists",
        "embed --output=f.npy",
        "--output paths.txt: exists already; remove it",
        file("paths.txt", b"mine"),
    ),
    ("embed: no detector", "embed --detector=none.onnx", "--detector none.onnx: OpenCV cannot open it as a YuNet model (No such"),
    ("embed: detector that is a text", f"embed --detector={LIST}", f"--detector {LIST}: OpenCV cannot open it as a YuNet model ("),
    ("embed: some faces", "embed --faces=two", "--faces: must be largest or all, not two"),
    ("embed: weights of another size", "embed --embedding_size=64", f"weights/{BACKBONE}: linear1.conv.weight has shape [128, 512"),
    (
        "embed: no image that can be embedded",
        "embed_of a.txt",
        "a.txt: none of 2 images can be embedded; the first: gone.jpg: No such file or directory; restore the image",
        file("a.txt", "gone.jpg\npairs.txt\n"),
    ),
    (
        "compare: no threshold",
        f"compare_of {IMAGE} {IMAGE}",
        "--threshold and --report: one of them is required, not both; valid.py",
    ),
    ("compare: threshold in degrees", f"compare {IMAGE} --threshold=45", "--threshold: must be a number from -1 to 1, not 45"),
    (
        "compare: no report",
        f"compare_of {IMAGE} {IMAGE} --report=data",
        "data/report.json: cannot be read (No such file or directory); pass",
    ),
    (
        "compare: report that is a list",
        f"compare_of {IMAGE} {IMAGE} --report=report.json",
        "report.json: not what valid.py --report writes (TypeError",
        file("report.json", "[1]"),
    ),
    (
        "compare: report of another network",
        f"compare_of {IMAGE} {IMAGE} --report=report.json",
        "report.json: is of embedding_size 512, not 128, and thresholds fit one model; pass its own report",
        reported(embedding_size=512),
    ),
    (
        "compare: report of too few pairs",
        f"compare_of {IMAGE} {IMAGE} --report=report.json",
        "report.json: lfw has 300 pairs of two identities and tells no threshold at FAR 0.0001; pass --far 0.1, or a --threshold",
        reported(),
    ),
    (
        "compare: no such set",
        f"compare_of {IMAGE} {IMAGE} --report=report.json --set=cfp_fp",
        "report.json: has the sets lfw; name the one whose threshold to use with --set",
        reported(),
    ),
    # ---- images to compare
    ("compare: no image", "compare b.jpg", "b.jpg: No such file or directory; restore the image"),
    ("compare: directory", "compare data", "data: Is a directory; restore the image"),
    ("compare: pipe", "compare b.jpg", "b.jpg: Not a regular file; restore the image", pipe("b.jpg")),
    ("compare: forbidden", "compare b.jpg", "b.jpg: Permission denied; restore the image", forbidden("b.jpg")),
    ("compare: text", f"compare {LIST}", f"{LIST}: not an image that OpenCV can decode"),
    ("compare: empty file", "compare b.jpg", "b.jpg: not an image that OpenCV can decode (0 bytes); replace", file("b.jpg", b"")),
    ("compare: truncated image", f"compare {IMAGE}", f"{IMAGE}: truncated image (", cut(IMAGE)),
    (
        "compare: photo",
        "compare b.png",
        "b.png: the image is 250x250 pixels, not a 112x112 crop; pass a --detector",
        file("b.png", PNG_250),
    ),
    ("compare: bomb", "compare b.bmp", "b.bmp: the image is 99999x99999 pixels, not a 112x112 crop; pass", file("b.bmp", HUGE)),
    (
        "compare: photo that is a bomb",
        f"compare_of b.bmp b.bmp --threshold=0.3 --detector={YUNET}",
        "b.bmp: the image is 99999x99999 pixels, more than 200,000,000; scale it down or remove it",
        file("b.bmp", HUGE),
        real_detector,
    ),
    (
        "compare: photo without a face",
        f"compare_of b.png b.png --threshold=0.3 --detector={YUNET}",
        "b.png: no face found; use a photo that shows one",
        file("b.png", PNG_250),
        real_detector,
    ),
    (
        "compare: tiny photo",
        f"compare_of b.png b.png --threshold=0.3 --detector={YUNET}",
        "b.png: no face found; use a photo that shows one",
        file("b.png", PNG_1),
        real_detector,
    ),
    # ---- datasets/pack_bin.py
    ("pack: unknown option", "pack_bin --pear", "unknown option --pear; did you mean --pairs?"),
    (
        "pack: no list",
        "pack_bin --pairs=nothing.txt",
        "nothing.txt: No such file or directory; pass the list of pairs with --pairs",
    ),
    ("pack: list that is a directory", "pack_bin --pairs=data", "data: Is a directory; pass the list of pairs with --pairs"),
    ("pack: empty list", "pack_bin", "pairs.txt: lists no pairs; each line is", paired()),
    (
        "pack: flag that is 2",
        "pack_bin",
        "pairs.txt line 1: '00000000.jpg 00000001.jpg 2' does not end with 0 or 1",
        paired("00000000.jpg 00000001.jpg 2"),
    ),
    ("pack: one kind", "pack_bin", "pairs.txt: all 1 pairs show the same identity", paired("00000000.jpg 00000001.jpg 1")),
    (
        "pack: path that climbs out",
        "pack_bin",
        "pairs.txt line 1: '../tiny.bin 00000001.jpg 1' has a path that leaves the image directory",
        paired("../tiny.bin 00000001.jpg 1"),
    ),
    ("pack: no images", "pack_bin --images=nowhere", "nowhere: no such directory; correct --images"),
    ("pack: missing image", "pack_bin", "pairs.txt line 1: 00000000.jpg: no such file in data/images (1 of 4", missing(IMAGE)),
    ("pack: image that is a pipe", "pack_bin", "pairs.txt line 1: 00000000.jpg: no such file in data/images", pipe(IMAGE)),
    ("pack: truncated image", "pack_bin", f"{IMAGE}: truncated image", cut(IMAGE)),
    (
        "pack: output without a directory",
        "pack_bin --output=nowhere/mine.bin",
        "nowhere/mine.bin: its directory does not exist; create",
    ),
    (
        "pack: output that is there",
        "pack_bin --output=data/tiny.bin",
        "data/tiny.bin: exists already; pass another name, or --overwrite",
    ),
    (
        "pack: output over the list",
        "pack_bin --output=pairs.txt --overwrite",
        "pairs.txt: valid.py would not find it; name it pairs.bin",
    ),
    # ---- python -m arcface.weights
    ("convert: no arguments", "weights", "SOURCE, DESTINATION: required; see --help"),
    ("convert: no file", f"weights a.params {BACKBONE}", "a.params: cannot be read (No such file or directory); correct the path"),
    (
        "convert: another kind",
        f"weights a.h5 {BACKBONE}",
        "a.h5: weights are read from .params (MXNet), .pth and .pt (PyTorch), .onnx and .pdparams and .safetensors files",
    ),
    (
        "convert: PyTorch file that is none",
        "weights a.pth iresnet50.pdparams",
        "a.pth: truncated, damaged or not a pickle",
        file("a.pth", b"garbage!" * 9),
    ),
    ("convert: PyTorch file that is a pipe", "weights a.pt data/", "a.pt: cannot be read (Not a regular file)", pipe("a.pt")),
    (
        "convert: no ONNX file",
        "weights a.onnx mbf.pdparams",
        "a.onnx: cannot be read (No such file or directory); correct the path",
    ),
    (
        "convert: weights of no network",
        "weights a.pdparams data/",
        "a.pdparams: weights of another network: ",  # how many names are missing depends on whether Tiny is registered
        file("a.pdparams", pickle.dumps({"conv.weight": np.ones((3, 3), np.float32)})),
    ),
    (
        "convert: empty file",
        f"weights a.params {BACKBONE}",
        "a.params: byte 0: more bytes are due than the 0 that are left",
        file("a.params", b""),
    ),
    (
        "convert: garbage",
        f"weights a.params {BACKBONE}",
        "a.params: byte 0: the file's magic is",
        file("a.params", b"garbage!" * 9),
    ),
    (
        "convert: truncated file",
        f"weights a.params {BACKBONE}",
        "a.params: byte 16: a count or length of 350 where 8 bytes are left",
        file("a.params", struct.pack("<QQQQ", 0x112, 0, 350, 0)),
    ),
    ("convert: pipe", f"weights a.params {BACKBONE}", "a.params: cannot be read (Not a regular file); correct", pipe("a.params")),
    (
        "convert: name that valid.py does not look for",
        "weights a.params x.pdparams",
        f"x.pdparams: valid.py would not find it; name it {BACKBONE}",
    ),
    (
        "convert: name of no network",
        "weights a.pt x.pdparams",
        "x.pdparams: valid.py would not find it; name it after its network, as in iresnet50.pdparams, or pass a directory",
    ),
    ("convert: destination that is there", f"weights a.params weights/{BACKBONE}", f"weights/{BACKBONE}: exists already; choose"),
    (
        "convert: another network",
        "weights a.params ResNet.pdparams --network=ResNet",
        "--network ResNet: no such backbone; did you mean",
        file("a.params", b""),
    ),
    (
        "convert: size beyond all memory",
        f"weights a.params {BACKBONE} --embedding_size=1000000000",
        "--embedding_size: must be a whole number from 1 to 65536, not 1000000000",
    ),
    # ---- datasets/demo.py
    (
        "draw: pairs that ten folds do not divide",
        "demo --pairs=30",
        "--pairs: must be a multiple of 20 for ten balanced folds, not 30; pass 40",
    ),
    ("draw: output that holds something", "demo --output=data", "data: exists and contains something else; remove it or choose"),
    ("draw: output below a file", "demo --output=pairs.txt/demo", "pairs.txt/demo: cannot be written (Not a directory); choose"),
    # ---- python -m arcface.export
    ("no place for an export", "export --output=", "--output: has no value; pass one or leave the option out"),
    ("another format", "export --format=tflite", "--format: must be paddle, onnx or openvino, not tflite"),
    ("export without its packages", "export --format=onnx", "--format onnx needs paddle2onnx and onnx", without_onnx),
    ("export of nothing", "export --checkpoint=nowhere", f"nowhere: looked for {BACKBONE} and {NETWORK}.safetensors, found"),
    ("export of a file", f"export --checkpoint=weights/{BACKBONE}", f"weights/{BACKBONE}: is a file; pass its directory"),
    ("export of no network", "export --network=ResNet", "--network ResNet: no such backbone; did you mean iresnet"),
    (
        "export of another network",
        "export --network=mbf",
        f"weights: looked for mbf.pdparams and mbf.safetensors, found {BACKBONE}",
    ),
    ("export of another size", "export --embedding_size=64", f"weights/{BACKBONE}: linear1.conv.weight has shape"),
    ("export of damaged weights", "export", f"weights/{BACKBONE}: ", cut(f"weights/{BACKBONE}")),
    (
        "export of a damaged checkpoint",
        "export --checkpoint=run",
        f"run/latest/{MANIFEST}: damaged (",
        cut(f"run/latest/{MANIFEST}"),
    ),
    ("export over a file", f"export --output={IMAGE}", f"{IMAGE}: cannot be written (File exists); choose another directory"),
    ("export below a file", f"export --output={IMAGE}/a/b", "0.jpg/a/b: cannot be written (Not a directory); choose another"),
    ("export to a place that takes no files", "export --output=/proc/x", "--output /proc/x: cannot be written ("),
    (
        "export among other files",
        "export --output=data --overwrite",
        "data: contains 'images', which is no part of an export; choose another directory",
    ),
    ("export that exists", "export", "exported: contains an export already; choose another directory, or pass --ov", exported),
    (
        "export with another's file in it",
        "export --overwrite",
        "exported: contains 'thesis.tex', which is no part of an export",
        exported,
        file("exported/thesis.tex", ""),
    ),
    # ---- what belongs to another tool or system
    (
        "MXNet's weights",
        "train --init_from=a.params",
        "a.params: is an MXNet file; run python -m arcface.weights a.params converted/<network>.pdparams and pass",
    ),
    (
        "PyTorch's weights",
        "train --init_from='a b.pth'",
        "a b.pth: is a PyTorch file; run python -m arcface.weights 'a b.pth'",
    ),
    ("MXNet's weights for a directory", "valid --checkpoint=a.params", "a.params: is an MXNet file; run", file("a.params", "")),
    (
        "directory of MXNet's weights",
        "valid --checkpoint=images",
        "images/a.params: is an MXNet file; run",
        people(2),
        file("images/a.params", ""),
    ),
    *(
        (
            f"folders of .{ending}",
            "train --data_dir=images",
            "images: contains folders, but no images in them whose names end in .jpg, .jpeg, .png, .bmp, .webp, only"
            f" images/p0/0.{ending};"
            " save such images as PNG, or rename",
            people(0),
            file(f"images/p0/0.{ending}", ""),
            file("images/a.txt", ""),
            in_place_of("images/p1", os.mkdir),
        )
        for ending in ("gif", "tif", "jfif")
    ),
    (
        "pack: backslashes",
        "pack_bin --images=data",
        "pairs.txt line 1: images\\00000000.jpg: no such file in data, but"
        f" {A} exists: replace the backslashes in the list by slashes",
        paired(r"images\00000000.jpg images/00000001.jpg 1", r"images\00000000.jpg images\00000002.jpg 0"),
    ),
    (
        "no set to train with",
        "train --val_targets=lfw",
        "correct --val_targets, --val_dir or --data_dir, or train without verification: --val_targets ''",
    ),
    (
        "home of nobody",
        "train --output=~/x",
        "~/x: the home directory is unknown; write the path without ~",
        environment("HOME", "~"),
    ),
    # ---- a changed list
    (
        "images of other people",
        "resume",
        "run/latest was trained on 8 images of 4 identities, as many as now, but in another order"
        " or with other labels; resume with the images",
        listed(*(f"images/{image:08d}.jpg\t{image // 2}" for image in range(8))),
    ),
    (
        "other labels than those of an early checkpoint",
        "resume",
        "run/latest was trained on other images: the sha256 of its labels is 0123456789ab..., now it is",
        in_manifest(identity={"network": NETWORK, "num_classes": 4, "labels": "0123456789abcdef"}),
    ),
    # ---- memory
    (
        "batch that no memory holds",
        "train --batch_size=512",
        "of it activations, more than 2 GiB of a small machine; use --batch_size ",
        lambda monkeypatch: monkeypatch.setattr(memory, "device_memory", lambda _: DeviceMemory(2**31, 2**31, "a small machine")),
        lambda monkeypatch: monkeypatch.setattr(memory, "resident_memory", lambda: 2**28),  # not that of all tests so far
    ),
]


@pytest.fixture(scope="module")
def sound(make_data_set, tmp_path_factory):
    """A directory where every command of `COMMANDS` would succeed; `run` is what train.py wrote."""
    place = tmp_path_factory.mktemp("sound")
    shutil.copytree(make_data_set(8, 4), place / "data")
    images = [path.read_bytes() for path in sorted((place / "data" / "images").iterdir())]
    (place / "data" / "tiny.bin").write_bytes(pickle.dumps((images, [True, False, True, False])))
    (place / "weights").mkdir()
    state = {name: tensor.numpy() for name, tensor in backbones.create_backbone(NETWORK, 128).state_dict().items()}
    (place / "weights" / BACKBONE).write_bytes(pickle.dumps(state))
    (place / "pairs.txt").write_text("00000000.jpg 00000001.jpg 1\n00000002.jpg 00000003.jpg 0\n")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(place)
        called(monkeypatch, "train --output=run --val_targets=")()
    shutil.rmtree(place / "log")
    return place


@pytest.fixture
def here(sound, tmp_path, monkeypatch):
    """A copy of `sound`, in which the test runs; a wait of a minute ends it."""

    def link_or_copy(source: str, destination: str) -> None:
        (os.link if source.endswith((".pdparams", ".pkl")) else shutil.copy2)(source, destination)

    shutil.copytree(sound, tmp_path, symlinks=True, copy_function=link_or_copy, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def too_long(*_):
        raise TimeoutError("it waits for something that never comes")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(60)
    yield tmp_path
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def called(monkeypatch, line: str):
    """Return the function that a row's command line calls, with sys.argv set for it."""
    name, *more = shlex.split(line)
    main, options = COMMANDS[name]
    monkeypatch.setattr(sys, "argv", [name, *shlex.split(options), *more])
    return main


def everything(place: Path) -> dict:
    """What is in a directory: sizes and times of files, links, and the names of directories."""
    return {
        path: None if path.is_dir() and not path.is_symlink() else (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in place.rglob("*")
    }


@pytest.mark.parametrize(
    "line, complaint, prepare", [pytest.param(line, complaint, prepare, id=name) for name, line, complaint, *prepare in TABLE]
)
def test_a_mistake_ends_in_one_line_that_instructs_and_writes_nothing(here, refused, monkeypatch, line, complaint, prepare):
    for change in prepare:
        change(monkeypatch)
    before = everything(here)
    error = refused(called(monkeypatch, line))
    assert complaint in error
    assert re.search(r"must be |must count |[;:?,] [-a-z]+ ", error.removeprefix("error: ")), error
    assert error.rstrip("\n").isprintable() and len(error) < 1000
    assert everything(here) == before


def test_each_row_expects_the_name_of_an_option_a_file_or_a_variable():
    for name, _, complaint, *_ in TABLE:
        assert re.search(r"--\w|\w[./]\w|\w: |[A-Z]_[A-Z]+=|option|argument|x{300}", complaint), name


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("weights", "demo", "export", "embed_of", "compare_of")])
def test_without_the_mistake_each_command_succeeds(here, monkeypatch, name):
    called(monkeypatch, f"compare {IMAGE}" if name == "compare" else name)()


# ---- odd but sound


BLOBS = cv2.resize(np.random.default_rng(0).integers(0, 256, (7, 7, 3), np.uint8), (112, 112), interpolation=cv2.INTER_CUBIC)
GREY = np.repeat(np.asarray(Image.fromarray(BLOBS).convert("L"))[..., None], 3, 2)
TURNED = np.rot90(BLOBS, -1)


def encoded(image: Image.Image, kind: str, **how) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **how)
    return content.getvalue()


def turned_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be shown turned to the right
    return exif


RGB = Image.fromarray(BLOBS)
JPEG, PNG = encoded(RGB, "JPEG", quality=95), encoded(RGB, "PNG")
TRANSPARENT = Image.fromarray(np.dstack([BLOBS, np.zeros((112, 112), np.uint8)]))

# id, encoded image, its pixels uint8 [112, 112, 3] RGB, by how much JPEG's rounding may differ on average
ODD_IMAGES = [
    ("greyscale JPEG", encoded(RGB.convert("L"), "JPEG", quality=95), GREY, 2),
    ("CMYK JPEG", encoded(RGB.convert("CMYK"), "JPEG", quality=95), BLOBS, 2),
    ("progressive JPEG", encoded(RGB, "JPEG", quality=95, progressive=True), BLOBS, 2),
    ("JPEG with bytes behind its end", JPEG + b"\0" * 1000, BLOBS, 2),
    ("JPEG with a JPEG in its head", JPEG[:2] + b"\xff\xe1" + struct.pack(">H", len(JPEG) + 2) + JPEG + JPEG[2:], BLOBS, 2),
    ("JPEG to be shown turned", encoded(RGB, "JPEG", quality=95, exif=turned_exif()), TURNED, 2),
    ("PNG", PNG, BLOBS, 0),
    ("16-bit PNG", cv2.imencode(".png", BLOBS[..., ::-1].astype(np.uint16) * 257)[1].tobytes(), BLOBS, 0),
    ("greyscale PNG", encoded(RGB.convert("L"), "PNG"), GREY, 0),
    ("16-bit greyscale PNG", cv2.imencode(".png", GREY[..., 0].astype(np.uint16) * 257)[1].tobytes(), GREY, 0),
    ("PNG with a palette", encoded(RGB.convert("P"), "PNG"), np.asarray(RGB.convert("P").convert("RGB")), 0),
    ("transparent PNG", encoded(TRANSPARENT, "PNG"), BLOBS, 0),
    ("PNG with bytes behind its end", PNG + b"\0" * 1000, BLOBS, 0),
    ("BMP", encoded(RGB, "BMP"), BLOBS, 0),
    ("WebP", encoded(RGB, "WEBP", lossless=True), BLOBS, 0),
]

# id, content of the list, names and labels that are read; the images' files are made by these names
ODD_LISTS = [
    ("spaces for tabs", b"a.jpg 0\nb.jpg   1\n", [b"a.jpg", b"b.jpg"], [0, 1]),
    ("CR-LF", b"a.jpg\t0\r\nb.jpg\t1\r\n", [b"a.jpg", b"b.jpg"], [0, 1]),
    ("CR", b"a.jpg\t0\rb.jpg\t1\r", [b"a.jpg", b"b.jpg"], [0, 1]),
    ("byte-order mark", b"\xef\xbb\xbfa.jpg\t0\nb.jpg\t1\n", [b"a.jpg", b"b.jpg"], [0, 1]),
    ("no line end", b"a.jpg\t0\nb.jpg\t1", [b"a.jpg", b"b.jpg"], [0, 1]),
    ("comments and blank lines", b"# faces\n\na.jpg\t0\n  \n # b\nb.jpg\t1\n", [b"a.jpg", b"b.jpg"], [0, 1]),
    ("names that are not UTF-8", b"\xe9.jpg\t0\n\xff\xfe.jpg\t1\n", [b"\xe9.jpg", b"\xff\xfe.jpg"], [0, 1]),
    ("Chinese names", "\u4eba/\u8138.jpg\t0\nb.jpg\t1\n".encode(), ["\u4eba/\u8138.jpg".encode(), b"b.jpg"], [0, 1]),
    ("spaces in names", b"a b.jpg\t0\n c .jpg\t1\n", [b"a b.jpg", b"c .jpg"], [0, 1]),
    ("dots that stay inside", b"./a.jpg 0\nd/../b.jpg 1\na..b.jpg 1\n", [b"./a.jpg", b"d/../b.jpg", b"a..b.jpg"], [0, 1, 1]),
    ("signs and zeros", b"a.jpg\t+0\nb.jpg\t01\n", [b"a.jpg", b"b.jpg"], [0, 1]),
    ("people in any order", b"b.jpg\t1\na.jpg\t0\n", [b"b.jpg", b"a.jpg"], [1, 0]),
    ("a line twice", b"a.jpg\t0\nb.jpg\t1\na.jpg\t0\n", [b"a.jpg", b"b.jpg", b"a.jpg"], [0, 1, 0]),
]


@pytest.mark.parametrize("content, pixels, tolerance", [pytest.param(*row[1:], id=row[0]) for row in ODD_IMAGES])
def test_odd_images_are_decoded_rightly(content, pixels, tolerance):
    difference = np.abs(decode(content, "").transpose(1, 2, 0).astype(int) - pixels)
    assert difference.mean() <= tolerance


@pytest.mark.parametrize("content, names, labels", [pytest.param(*row[1:], id=row[0]) for row in ODD_LISTS])
def test_odd_lists_are_read_rightly(tmp_path, content, names, labels):
    (tmp_path / "d").mkdir()
    for name in names:
        path = tmp_path / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(JPEG)
    (tmp_path / "label.txt").write_bytes(content)
    source = LabelFile(str(tmp_path))
    source.scan(len(source))
    assert source.labels.tolist() == labels
    assert [os.fsencode(source.name(index)).rpartition(b": ")[2] for index in range(len(source))] == names
    assert [source.encoded(index) for index in range(len(source))] == [JPEG] * len(names)


def test_a_step_is_trained_on_what_is_odd(here, monkeypatch, caplog):
    lines = []
    for number, (_, content, *_) in enumerate(ODD_IMAGES):
        name = b"images/\xe9 %d.jpg" % number
        Path(os.fsdecode(b"data/" + name)).write_bytes(content)
        lines += [b"%b\t%d\r\n" % (name, number % 3)] * (1 + (number == 4))
    Path(LIST).write_bytes(b"\xef\xbb\xbf" + b"".join(lines))
    logger = logging.getLogger("arcface")
    logger.addHandler(caplog.handler)
    called(monkeypatch, f"train --val_targets= --max_bad_images=0 --batch_size={len(lines)}")()
    logger.removeHandler(caplog.handler)
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == [f"{LIST}: 1 lines repeat an earlier line; such an image counts as often as it is listed"]
    assert "Global Step: 1 " in Path("out/training.log").read_text()
