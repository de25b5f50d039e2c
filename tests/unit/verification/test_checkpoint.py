"""valid.py as its users run it: every engine, reports, template-based sets, any number of ranks."""

import pickle
import re
import shutil
import sys

import numpy as np
import paddle
import pytest
from engine_params import engines_here
from protocol_files import landmark_lines, write

import valid
from arcface.backbones import create_backbone
from arcface.config import ValidConfig
from arcface.data.bin_file import read_bin, write_bin
from arcface.io.images import decode, normalise
from arcface.verification.ijb import read_protocol
from arcface.verification.roc import tar_at_far
from arcface.verification.templates import aggregate, image_features, score

NETWORK = "MobileFaceNet_128"
HERE = engines_here("openvino", "paddle-inference", "onnxruntime", "paddle")
ENGINES = [engine.values[0] for engine in HERE if not engine.marks]

pytestmark = pytest.mark.usefixtures("exports_once")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A directory with a backbone's weights only, as one that somebody published."""
    directory = tmp_path_factory.mktemp("published")
    paddle.seed(0)
    paddle.save(create_backbone(NETWORK, 128).state_dict(), str(directory / f"{NETWORK}.pdparams"))
    return directory


@pytest.fixture(scope="module")
def sets(make_data_set, tmp_path_factory):
    """A directory with tiny.bin, a set of 12 pairs, and IJB-X, a protocol of 7 images."""
    images = make_data_set(24, 3) / "images"
    directory = tmp_path_factory.mktemp("sets")
    encoded = [path.read_bytes() for path in sorted(images.iterdir())]
    (directory / "tiny.bin").write_bytes(pickle.dumps((encoded, [True, False] * 6)))
    protocol = write(directory, landmarks=landmark_lines())
    for number in range(1, 8):
        (protocol / "images" / f"{number}.jpg").write_bytes(encoded[number])
    return directory


@pytest.fixture
def verify(monkeypatch, capsys, published, sets):
    """Returns a function that calls valid.py with options, and returns what it printed, without the times."""

    def call(*options) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["valid.py", *arguments(published, sets), *map(str, options)])
        valid.main()
        return figures(capsys.readouterr().out)

    return call


def arguments(published, sets) -> list[str]:
    return [f"--checkpoint={published}", f"--data_dir={sets}", "--device=cpu", "--val_batch_size=3"]


def figures(printed: str) -> list[str]:
    return [line.partition("-[")[2] for line in printed.splitlines() if "-[" in line]


def test_every_engine_prints_the_same_figures(verify):
    for package in ("openvino", "onnxruntime", "paddle2onnx"):
        pytest.importorskip(package)
    lines = {engine: verify("--val_targets=tiny", f"--engine={engine}") for engine in ENGINES}
    assert re.fullmatch(r"tiny\]\[0\]XNorm: \d+\.\d{6}", lines["paddle"][0]) and len(lines["paddle"]) == 3
    for engine in ENGINES:
        assert lines[engine][1:] == lines["paddle"][1:]
        xnorms = [float(lines[name][0].rpartition(" ")[2]) for name in (engine, "paddle")]
        assert xnorms[0] == pytest.approx(xnorms[1], rel=1e-5)


@paddle.no_grad()
def expected_points(published, sets, flip=True, norm_score=True, detector_score=True):
    """TAR at FAR of the protocol, each image embedded by itself."""
    protocol = read_protocol(sets / "IJB-X")
    backbone = create_backbone(NETWORK, 128)
    backbone.set_state_dict(paddle.load(str(published / f"{NETWORK}.pdparams")))
    backbone.eval()
    embeddings = []
    for name in protocol.images.tolist():
        image = decode((protocol.directory / name.decode()).read_bytes(), "")
        views = np.ascontiguousarray(np.stack([image, image[:, :, ::-1]]))
        embeddings.append(backbone(normalise(paddle.to_tensor(views))).numpy())
    plain, flipped = np.array(embeddings).swapaxes(0, 1)
    features = image_features(
        plain, flipped, protocol.detector_scores, flip=flip, norm_score=norm_score, detector_score=detector_score
    )
    return tar_at_far(score(protocol.pairs_file, *aggregate(features, protocol.templates, protocol.media)))


def assert_points(lines, points):
    assert len(lines) == len(points) == 6
    for line, point in zip(lines, points, strict=True):
        if point.tar is None:
            assert line == f"ijbx][0]TAR@FAR={point.far:.0e}: not enough negatives"
        else:
            tar, threshold = re.fullmatch(r"ijbx\]\[0\]TAR@FAR=1e-01: (\S+) \(similarity >= (\S+)\)", line).groups()
            assert float(tar) == pytest.approx(point.tar, abs=1e-5) and float(threshold) == pytest.approx(point.threshold, abs=2e-4)


@pytest.mark.parametrize("option", ["flip", "norm_score", "detector_score", None])
def test_a_protocol_directory_is_verified_by_its_templates(verify, published, sets, option):
    lines = verify("--val_targets=IJB-X", *([f"--template_{option}=0"] if option else []))
    assert_points(lines, expected_points(published, sets, **({option: False} if option else {})))


def test_a_protocol_without_detector_scores_is_refused_before_the_work_or_does_without(verify, refused, sets, tmp_path):
    directory = tmp_path / "IJB-X"
    shutil.copytree(sets / "IJB-X", directory)
    (directory / "meta" / "ijbx_name_5pts_score.txt").unlink()
    options = [f"--data_dir={tmp_path}", "--val_targets=IJB-X"]
    assert "leave them out with --template_detector_score 0" in refused(lambda: verify(*options))
    assert verify(*options, "--template_detector_score=0") == verify("--val_targets=IJB-X", "--template_detector_score=0")


def test_two_ranks_verify_a_protocol_as_one_does(published, sets, run_ranks, repository):
    options = [*arguments(published, sets), "--val_targets=IJB-X", "--engine=paddle"]
    assert_points(figures(run_ranks(2, repository / "valid.py", *options).stdout), expected_points(published, sets))


def test_a_report_covers_all_sets_and_states_the_run(verify, tmp_path):
    lines = verify("--val_targets=tiny,IJB-X", f"--report={tmp_path / 'report'}", "--engine=paddle-inference")
    page = (tmp_path / "report" / "index.html").read_text()
    accuracy, deviation = re.fullmatch(r"tiny\]\[0\]Accuracy-Flip: (\S+)\+-(\S+)", lines[1]).groups()
    assert f"{accuracy} ± {deviation}" in page
    settings = dict(re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td></tr>", page.partition('class="settings"')[2]))
    assert settings["engine used"] == "paddle-inference" and settings["val_targets"] == "tiny,IJB-X" and settings["ranks"] == "1"
    assert settings.keys() >= ValidConfig.__dataclass_fields__.keys()
    assert page.index("<h2>tiny</h2>") and "<h2>IJB-X</h2>" not in page  # a protocol has no pairs of images


def test_a_report_that_cannot_be_written_is_refused_before_the_work(verify, refused, monkeypatch, published, sets, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["valid.py", *arguments(published, sets), f"--report={tmp_path / 'file'}"])
    monkeypatch.setattr("arcface.verification.checkpoint.verify", None)
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--val_targets=tiny"])
    assert "file: cannot be written (File exists); choose another directory" in refused(valid.main)


@pytest.mark.parametrize("manifest, step", [('{"progress": {"step": 7}}', 7), ("{}", None), ("not JSON", None), ("[]", None)])
def test_the_step_is_the_checkpoint_s_and_a_damaged_manifest_is_named(
    monkeypatch, refused, capsys, published, sets, manifest, step
):
    (published / "checkpoint.json").write_text(manifest)
    monkeypatch.setattr(sys, "argv", ["valid.py", *arguments(published, sets), "--val_targets=tiny"])
    try:
        if step is None:
            assert f"{published / 'checkpoint.json'}: damaged" in refused(valid.main)
        else:
            valid.main()
            assert figures(capsys.readouterr().out)[0].startswith(f"tiny][{step}]XNorm")
    finally:
        (published / "checkpoint.json").unlink()


@pytest.fixture
def verify_published(real_data, tmp_path, monkeypatch, capsys):
    """Returns a function that verifies InsightFace's published model on sets of a directory, and returns what valid.py printed."""
    from arcface.weights import convert

    def call(data_dir, name: str) -> list[str]:
        convert.main([str(real_data / "insightface_y1" / "model-0000.params"), str(tmp_path / f"{NETWORK}.pdparams")])
        options = [f"--checkpoint={tmp_path}", f"--data_dir={data_dir}", f"--val_targets={name}"]
        monkeypatch.setattr(sys, "argv", ["valid.py", *options])
        capsys.readouterr()
        valid.main()
        return figures(capsys.readouterr().out)

    return call


def test_the_published_model_tells_the_faces_of_a_part_of_lfw_apart(verify_published, real_data, tmp_path):
    lfw = read_bin(real_data / "lfw.bin")
    write_bin(tmp_path / "part.bin", lfw.images[:1200], lfw.is_same[:600].tolist())
    xnorm, accuracy, _ = verify_published(tmp_path, "part")
    assert float(xnorm.removeprefix("part][0]XNorm: ")) == pytest.approx(10.548, abs=0.3)  # that of all of LFW
    assert float(accuracy.removeprefix("part][0]Accuracy-Flip: ").split("+-")[0]) > 0.985


@pytest.mark.exhaustive
def test_the_published_model_gives_its_published_accuracy_on_lfw(verify_published, real_data):
    """The known answer, from an independent implementation: 0.99333 +- 0.00441, XNorm 10.548."""
    xnorm, accuracy, highest = verify_published(real_data, "lfw")
    assert float(xnorm.removeprefix("lfw][0]XNorm: ")) == pytest.approx(10.548, abs=0.02)
    mean, deviation = map(float, accuracy.removeprefix("lfw][0]Accuracy-Flip: ").split("+-"))
    assert mean == pytest.approx(0.99333, abs=3e-4) and deviation == pytest.approx(0.00441, abs=3e-4)
    assert highest == f"lfw][0]Accuracy-Highest: {mean:.5f}"
