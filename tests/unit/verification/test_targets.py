"""valid.py on what is no .bin: the lines that it prints, the report, two ranks, and photographs."""

import dataclasses
import json
import re
import shutil
import sys

import cv2
import numpy as np
import paddle
import pytest
from protocol_files import refusal, write
from tinyface_files import write_tinyface

import valid
from arcface.backbones import create_backbone
from arcface.config import VerificationOptions
from arcface.data.align_photos import AlignOptions, align_photos
from arcface.data.photos import CropReader
from arcface.verification import checkpoint
from arcface.verification.evaluator import check_images
from arcface.verification.pack_bin import PackOptions, pack_bin
from arcface.verification.sets import read_pair_sets
from arcface.weights import convert

TARGETS = "people,pairs.txt=crops,tinyface,IJB-X"
NETWORK = "MobileFaceNet_128"


@pytest.fixture
def place(make_data_set, tmp_path, tiny):
    """A directory with a set of each kind, of 24 images, and weights of the backbone Tiny."""
    files = sorted((make_data_set(24, 3) / "images").iterdir())
    encoded = [file.read_bytes() for file in files]
    for number, content in enumerate(encoded):
        (tmp_path / "people" / f"p{number // 6}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "people" / f"p{number // 6}" / f"{number}.jpg").write_bytes(content)
    (tmp_path / "crops").symlink_to(files[0].parent)
    (tmp_path / "pairs.txt").write_text("\n".join(f"{files[n].name}\t{files[n + 12].name}\t{n % 2}" for n in range(12)))
    contents = iter(encoded)
    write_tinyface(tmp_path / "tinyface" / "Testing_Set", lambda name: next(contents))
    protocol = write(tmp_path)
    for number in range(1, 8):
        (protocol / "images" / f"{number}.jpg").write_bytes(encoded[number])
    lists = {"gallery_G1": "10,1\n20,2\n", "gallery_G2": "30,3\n", "probe_mixed": "40,1\n30,2\n20,3\n10,3\n"}
    for name, content in lists.items():
        (protocol / "meta" / f"ijbx_1N_{name}.csv").write_text("TEMPLATE_ID,SUBJECT_ID\n" + content)
    paddle.seed(0)
    paddle.save(create_backbone("Tiny", 8).state_dict(), str(tmp_path / "Tiny.pdparams"))
    return tmp_path


def options(place, *more) -> list[str]:
    network = ["--network=Tiny", "--embedding_size=8", "--engine=paddle", "--device=cpu", "--template_detector_score=0"]
    return [*network, f"--checkpoint={place}", f"--data_dir={place}", f"--val_targets={TARGETS}", "--val_batch_size=3", *more]


@pytest.fixture
def printed(monkeypatch, capsys):
    """Returns a function that calls valid.py with options, and returns what it printed, without the times."""

    def call(*options) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["valid.py", *map(str, options)])
        capsys.readouterr()
        valid.main()
        return lines(capsys.readouterr().out)

    return call


def lines(output: str) -> list[str]:
    return [re.sub(r"^Training: \S+ [0-9:]+,[0-9]{3}-", "", line) for line in output.splitlines()]


def figures(printed: list[str]) -> dict[str, list[float]]:
    """The numbers of each line that has a figure, by what they are of."""
    found = [line.partition(": ") for line in printed if line.startswith("[")]
    return {what: [float(number) for number in re.findall(r"-?\d+\.\d+", rest)] for what, _, rest in found}


def test_each_kind_is_said_and_has_its_figures(place, printed):
    output = printed(*options(place))
    assert output[:4] == [
        f"people: {place / 'people'} is a folder of 4 identities: 60 pairs of one and 60 of two, in 2 folds",
        f"crops: {place / 'pairs.txt'} lists 6 pairs of one identity and 6 of two in {place / 'crops'}",
        f"tinyface: {place / 'tinyface' / 'Testing_Set'} has TinyFace's layout: 3 probes, 6 images searched, 2 of them distractors",
        f"ijbx: {place / 'IJB-X'} is an IJB-style protocol: 7 images, 6 pairs of templates, 2 galleries",
    ]
    of_pairs = ["XNorm", "Accuracy-Flip", "Accuracy-Highest"]
    expected = [f"[{name}][0]{what}" for name in ("people", "crops") for what in of_pairs]
    expected += [f"[tinyface][0]Rank-{rank}" for rank in (1, 5, 20)]
    expected += [f"[ijbx][0]TAR@FAR=1e-{far:02d}" for far in range(1, 7)]
    expected += [f"[ijbx][0]Rank-{rank}" for rank in (1, 5)] + [f"[ijbx][0]TPIR@FPIR=1e-{fpir:02d}" for fpir in (1, 2)]
    assert list(figures(output)) == expected
    assert output[-1] == "[ijbx][0]TPIR@FPIR=1e-02: not enough probes without a mate"


def test_two_ranks_find_what_one_does(place, printed, run_ranks, repository):
    ours = figures(lines(run_ranks(2, repository / "valid.py", *options(place)).stdout))
    assert ours.keys() == (theirs := figures(printed(*options(place)))).keys() and len(ours) == 19
    for what, numbers in theirs.items():
        assert ours[what] == pytest.approx(numbers, rel=1e-5, abs=2e-4), what


def test_a_report_has_the_identifications_and_the_crops_of_files(place, printed):
    output = printed(*options(place, f"--report={place / 'report'}"))
    page = (place / "report" / "index.html").read_text()
    (rate,) = figures(output)["[tinyface][0]Rank-1"]
    assert f"<tr><td>tinyface</td><td>rank 1</td><td>{100 * rate:.2f} %</td>" in page
    identified = json.loads((place / "report" / "report.json").read_text())["identifications"]
    assert [one["name"] for one in identified] == ["tinyface", "ijbx"] and identified[0]["rank"]["1"] == pytest.approx(
        rate, abs=1e-5
    )
    assert page.count("<td>ijbx</td><td>TPIR at FPIR") == 2 and "not enough probes without a mate" in page
    assert page.count('<img alt="" src="data:image/png') >= 4  # the worst mistakes of both sets of pairs


def test_a_report_of_an_identification_alone_has_no_roc(place, printed):
    printed(*options(place, "--val_targets=tinyface", f"--report={place / 'report'}"))
    assert {file.name for file in (place / "report").iterdir()} == {"index.html", "report.json"}
    assert "<h1>Verification: tinyface</h1>" in (place / "report" / "index.html").read_text()


# photographs


def test_photos_become_the_crops_that_align_makes_and_one_without_a_face_is_named(real_data, tmp_path):
    detector = str(real_data / "yunet" / "face_detection_yunet.onnx")
    people = [one for one in sorted((real_data / "lfw_photos" / "photos").iterdir()) if len(list(one.iterdir())) > 1]
    for person in people[:4]:
        shutil.copytree(person, tmp_path / "photos" / person.name)
    align_photos(
        AlignOptions(
            images=str(tmp_path / "photos"), output=str(tmp_path / "crops"), detector=detector, format="png", num_workers=1
        )
    )
    options = VerificationOptions(val_dir=str(tmp_path), val_targets="photos", detector=detector)
    (photos,), (crops,) = read_pair_sets(options), read_pair_sets(dataclasses.replace(options, val_targets="crops", detector=None))
    assert len(photos.images) == len(crops.images) >= 8
    for position in range(len(photos.images)):
        assert photos.images[position].stem == crops.images[position].stem
        assert (photos.crop(position) == crops.crop(position)).all()
    without = dataclasses.replace(photos, reader=CropReader())
    assert refusal(check_images, without).endswith("pixels, not a 112x112 crop; pass a --detector to find the face in it")
    photos.images[5].write_bytes(cv2.imencode(".jpg", np.full((250, 250, 3), 90, np.uint8))[1].tobytes())
    assert refusal(check_images, photos) == f"{photos.images[5]}: no face found; use a photo that shows one"


@pytest.mark.exhaustive
@pytest.mark.timeout(600)
def test_photos_of_lfw_give_what_the_bin_of_their_crops_gives_pair_by_pair(real_data, tmp_path, printed, monkeypatch):
    """The known answer: 0.985 or better."""
    results, real = [], checkpoint.verify
    monkeypatch.setattr(checkpoint, "verify", lambda *arguments: results.append(real(*arguments)) or results[-1])
    photos, detector = real_data / "lfw_photos", str(real_data / "yunet" / "face_detection_yunet.onnx")
    align_photos(AlignOptions(images=str(photos / "photos"), output=str(tmp_path / "crops"), detector=detector, format="png"))
    pack_bin(PackOptions(images=str(tmp_path / "crops"), pairs=str(photos / "pairs.txt"), output=str(tmp_path / "photos.bin")))
    convert.main([str(real_data / "insightface_y1" / "model-0000.params"), str(tmp_path / f"{NETWORK}.pdparams")])
    ours = printed(f"--checkpoint={tmp_path}", f"--data_dir={photos}", "--val_targets=pairs.txt=photos", f"--detector={detector}")
    theirs = printed(f"--checkpoint={tmp_path}", f"--data_dir={tmp_path}", "--val_targets=photos")
    assert figures(ours) == figures(theirs) and figures(ours)["[photos][0]Accuracy-Flip"][0] >= 0.985
    assert len(results[0].similarities) == 600 and np.abs(results[0].similarities - results[1].similarities).max() < 1e-5
