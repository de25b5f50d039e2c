"""datasets/README.md shows commands with the options that the tools have."""

import pytest

from arcface.data.align_photos import AlignOptions
from arcface.data.checks import CheckOptions
from arcface.data.convert import ConvertOptions
from arcface.data.merge import MergeOptions
from arcface.data.synthetic import DemoOptions
from arcface.options.command_line import parse
from arcface.verification.pack_bin import PackOptions

TOOLS = {
    "align": AlignOptions,
    "check": CheckOptions,
    "convert": ConvertOptions,
    "demo": DemoOptions,
    "merge": MergeOptions,
    "pack_bin": PackOptions,
}


@pytest.mark.parametrize("tool", TOOLS)
def test_every_command_has_options_of_its_tool(repository, tool):
    lines = (repository / "datasets" / "README.md").read_text(encoding="utf-8").splitlines()
    commands = [line.split()[2:] for line in lines if line.startswith(f"python datasets/{tool}.py ")]
    assert commands
    for command in commands:
        parse(TOOLS[tool], command)
