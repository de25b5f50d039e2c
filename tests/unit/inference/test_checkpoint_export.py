"""What arcface.export writes says what it is, computes what the checkpoint does, and is there whole or not at all."""

import hashlib
import json
import signal

import numpy as np
import paddle
import pytest

from arcface.backbones import create_backbone
from arcface.config import ExportOptions
from arcface.errors import UserError
from arcface.export import main
from arcface.inference import checkpoint_export
from arcface.inference.checkpoint_export import export_checkpoint
from arcface.inference.export import export
from arcface.weights.state_dict import load_backbone, read_state_dict

FORMATS = {"paddle": ["paddle"], "onnx": ["paddle2onnx", "onnx", "onnxruntime"], "openvino": ["paddle2onnx", "onnx", "openvino"]}


@pytest.fixture
def options(tiny, tmp_path, monkeypatch):
    """Options of an export of Tiny's checkpoint, after step 7 of a run, that is made in this process."""
    directory = tmp_path / "trained"
    (directory / "latest").mkdir(parents=True)
    (directory / "latest" / "checkpoint.json").write_text(json.dumps({"progress": {"step": 7, "run": "abc"}}))
    paddle.seed(0)
    paddle.save(create_backbone("Tiny", 16).state_dict(), str(directory / "Tiny.pdparams"))
    monkeypatch.setattr(checkpoint_export, "export_in_child", exporter())
    return ExportOptions(
        network="Tiny", embedding_size=16, checkpoint=str(directory), output=str(tmp_path / "a" / "out"), format="paddle"
    )


def exporter(change=lambda backbone: None):
    """Return what exports in this process, after `change` has changed the backbone."""

    def export_here(weights, network, embedding_size, folder, format, variant):
        backbone = create_backbone(network, embedding_size)
        load_backbone(backbone, read_state_dict(weights), str(weights))
        change(backbone)
        return export(backbone, folder, format, variant)

    return export_here


def everything(folder) -> dict:
    return {path.relative_to(folder): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize("format", FORMATS)
def test_the_description_beside_the_model_and_inside_it_says_what_it_is_and_of_what_it_was_made(options, tmp_path, format):
    for package in FORMATS[format]:
        pytest.importorskip(package)
    options.format, options.uint8_input, options.normalize = format, True, True
    line = export_checkpoint(options)
    output = tmp_path / "a" / "out"
    assert "uint8 images [n, 3, 112, 112] to embeddings [n, 16]; at batches 1 and 7 within" in line
    described = json.loads((output / "export.json").read_text())
    files = described.pop("sha256")
    assert {path.name for path in output.iterdir()} == {"export.json", *files}
    assert {hashlib.sha256((output / name).read_bytes()).hexdigest() for name in files} == set(files.values())
    weights = (tmp_path / "trained" / "Tiny.pdparams").read_bytes()
    facts = {"network": "Tiny", "embedding_size": 16, "input": "images", "input_dtype": "uint8", "input_size": [112, 112]}
    facts |= {"color_order": "RGB", "mean": 127.5, "scale": 1 / 127.5, "preprocessing": "inside", "unit_embeddings": True}
    facts |= {"weights_sha256": hashlib.sha256(weights).hexdigest(), "training_run": "abc", "training_step": 7}
    assert facts.items() <= described.items()
    assert described["versions"]["paddlepaddle"] == paddle.__version__
    inside = {}
    if format == "onnx":
        import onnx

        inside = {one.key: one.value for one in onnx.load(str(output / "Tiny.onnx")).metadata_props}
    if format == "openvino":
        import openvino

        model = openvino.Core().read_model(str(output / "Tiny.xml"))
        inside = {name: model.get_rt_info(["arcface", name]).value for name in described}
    if format == "paddle":  # whose files have a place for names only
        config = paddle.inference.Config(*(str(output / name) for name in sorted(files, reverse="Tiny.pdmodel" in files)))
        predictor = paddle.inference.create_predictor(config)
        assert [*predictor.get_input_names(), *predictor.get_output_names()] == [described["input"], described["output"]]
        assert described["output"] == "embeddings" or paddle.__version__ < "3"
    else:
        assert inside == {name: value if isinstance(value, str) else json.dumps(value) for name, value in described.items()}


def scaled(backbone):
    backbone.linear.weight.set_value(backbone.linear.weight * 1.001)
    backbone.linear.bias.set_value(backbone.linear.bias * 1.001)


def turned(backbone):
    weight = backbone.linear.weight
    weight.set_value(weight * (1 + 0.01 * paddle.to_tensor(np.eye(*weight.shape, dtype=np.float32))))


@pytest.mark.parametrize("change, normalize", [(scaled, False), (turned, True)])
def test_a_model_that_differs_from_the_checkpoint_is_refused_and_leaves_nothing(options, tmp_path, monkeypatch, change, normalize):
    before = everything(tmp_path)
    monkeypatch.setattr(checkpoint_export, "export_in_child", exporter(change))
    options.normalize = normalize
    with pytest.raises(
        UserError, match="--format paddle: the exported model's embeddings differ from the checkpoint's by .*nothing"
    ):
        export_checkpoint(options)
    assert everything(tmp_path) == before


def test_a_length_that_differs_does_not_matter_to_unit_embeddings(options, monkeypatch):
    monkeypatch.setattr(checkpoint_export, "export_in_child", exporter(scaled))
    options.normalize = True
    export_checkpoint(options)


def test_a_model_that_does_not_run_is_refused_and_leaves_nothing(options, tmp_path, monkeypatch):
    def broken(*how):
        model = exporter()(*how)
        model.with_suffix(".pdiparams").write_bytes(b"")
        return model

    before = everything(tmp_path)
    monkeypatch.setattr(checkpoint_export, "export_in_child", broken)
    with pytest.raises(UserError, match="--format paddle: the exported model does not run"):
        export_checkpoint(options)
    assert everything(tmp_path) == before


def test_a_command_that_is_told_to_end_leaves_nothing(options, tmp_path, monkeypatch):
    before = everything(tmp_path)
    monkeypatch.setattr(checkpoint_export, "export_in_child", lambda *how: signal.raise_signal(signal.SIGTERM))
    arguments = [f"--{name}={value}" for name, value in vars(options).items() if not isinstance(value, bool)]
    handler = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("SIGTERM would end the process at once"))
    try:
        with pytest.raises(KeyboardInterrupt):
            main(arguments)
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert everything(tmp_path) == before


def test_an_export_is_replaced_whole_when_asked(options, tmp_path):
    export_checkpoint(options)
    output = tmp_path / "a" / "out"
    before = everything(output)
    with pytest.raises(UserError, match="contains an export already; choose another directory, or pass --overwrite"):
        export_checkpoint(options)
    assert everything(output) == before
    options.overwrite, options.normalize = True, True
    export_checkpoint(options)
    assert json.loads((output / "export.json").read_text())["unit_embeddings"]
    assert [path.name for path in output.parent.iterdir()] == ["out"]


def test_published_weights_have_no_training(options, tmp_path):
    (tmp_path / "trained" / "latest" / "checkpoint.json").unlink()
    export_checkpoint(options)
    described = json.loads((tmp_path / "a" / "out" / "export.json").read_text())
    assert (described["training_run"], described["training_step"]) == (None, None)
