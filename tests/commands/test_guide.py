"""datasets/README.md shows commands as the tools take them."""

import importlib

import pytest

TOOLS = "align", "check", "convert", "demo", "merge", "pack_bin"


@pytest.mark.parametrize("tool", TOOLS)
def test_every_command_is_one_that_its_tool_takes(repository, tool):
    lines = (repository / "datasets" / "README.md").read_text(encoding="utf-8").splitlines()
    commands = [line.split()[2:] for line in lines if line.startswith(f"python datasets/{tool}.py ")]
    assert commands
    for command in commands:
        importlib.import_module(tool).parse(command)
