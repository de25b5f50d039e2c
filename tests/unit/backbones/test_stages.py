"""Stages: every registered backbone's layers in groups, from input to output."""

import numpy as np
import paddle
import pytest
from backbone_params import backbones
from tiny_backbone import Tiny

from arcface.backbones import create_backbone
from arcface.backbones.batch_norm import batch_norm_layer
from arcface.backbones.stages import stage_of, stages, stages_named
from arcface.errors import UserError


@pytest.mark.parametrize("name", backbones())
def test_the_stages_have_all_layers_once_in_the_order_in_which_they_compute(name):
    backbone = create_backbone(name, 32)
    known, computed = stages(backbone), []
    assert len(known) >= 5 and {stage_of(tensor, known) for tensor in backbone.state_dict()} == set(known)
    for layer_name, layer in backbone.named_sublayers():
        if layer.parameters(include_sublayers=False):
            stage = stage_of(layer_name, known)
            layer.register_forward_post_hook(lambda *_, stage=stage: computed.append(stage))
    backbone.eval()
    with paddle.no_grad():
        backbone(paddle.rand([1, 3, 112, 112]))
    assert list(dict.fromkeys(computed)) == list(known) and computed == sorted(computed, key=list(known).index)


def test_a_backbone_that_names_no_stages_has_its_layers_as_stages(tiny):
    assert stages(Tiny()) == {"block": ["block"], "linear": ["linear"]}


def test_a_wrong_stage_is_answered_with_the_stages(tiny):
    assert stages_named("", Tiny()) == [] and stages_named("block, linear", Tiny()) == stages_named("backbone", Tiny())
    with pytest.raises(UserError, match="--freeze stage9: .* name some of block, linear, or backbone for all"):
        stages_named("block,stage9", Tiny())


def test_sync_batch_norm_of_a_gpu_that_is_frozen_passes_gradients_on_by_its_running_statistics(monkeypatch):
    """Where it is trained, its kernel is Paddle's, which no CPU has."""
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    create = batch_norm_layer("sync")
    monkeypatch.undo()
    found = []
    for layer in (create(3), paddle.nn.BatchNorm2D(3, use_global_stats=True)):
        for name, tensor in layer.state_dict().items():
            tensor.set_value(paddle.linspace(1.0, 2.0, 3) + len(name))
        layer.eval()
        x = paddle.to_tensor(np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32), stop_gradient=False)
        y = layer(x)
        (y * y).sum().backward()
        found.append((y.numpy(), x.grad.numpy()))
    assert all(np.array_equal(ours, paddle_s) for ours, paddle_s in zip(*found)) and found[0][1].any()
