"""Stages of a backbone, from its input to its output: parts of several layers that are named together."""

from paddle import nn

from arcface.errors import UserError


def stages(backbone: nn.Layer) -> dict[str, list[str]]:
    """Return a backbone's stages by name, in the order in which they compute; each is a list of sub-layers and parameters.

    These are named as by `named_sublayers` and `named_parameters`. A backbone's own `stages` tell them; without, each of its
    sub-layers is a stage, in the order of their making. Every parameter and buffer belongs to exactly one stage.
    """
    return getattr(backbone, "stages", None) or {name: [name] for name, _ in backbone.named_children()}


def stage_of(name: str, parts_of_stages: dict[str, list[str]]) -> str:
    """Return the stage of a parameter, buffer or sub-layer, of which `name` is the whole name, as in a state dict."""
    (stage,) = (stage for stage, parts in parts_of_stages.items() if any(f"{name}.".startswith(f"{part}.") for part in parts))
    return stage


def stages_named(names: str, backbone: nn.Layer) -> list[str]:
    """Return the stages that --freeze names, separated by commas; "backbone" names all.

    Raises UserError for a name that is none of the backbone's stages.
    """
    known, asked = list(stages(backbone)), [name.strip() for name in names.split(",") if name.strip()]
    if asked == ["backbone"]:
        return known
    if wrong := [name for name in asked if name not in known]:
        raise UserError(f"--freeze {wrong[0]}: no stage of this network; name some of {', '.join(known)}, or backbone for all")
    return asked


def freeze(backbone: nn.Layer, names: list[str]) -> list[str]:
    """Make stages compute as in evaluation, also in training, with parameters that get no gradients.

    Returns their parameters and buffers, by the names of the state dict.
    """
    known, layers = stages(backbone), dict(backbone.named_sublayers())
    for part in (part for name in names for part in known[name]):
        if part in layers:
            layers[part].eval()
    frozen = {key: tensor for key, tensor in backbone.state_dict().items() if stage_of(key, known) in names}
    for tensor in frozen.values():
        tensor.stop_gradient = True
    return list(frozen)
