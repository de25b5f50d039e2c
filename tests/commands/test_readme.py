"""The documentation names what there is."""

import re

import pytest

from arcface.config import TrainConfig, ValidConfig


@pytest.mark.parametrize("name", ["README.md", "README_ch.md"])
def test_every_option_is_listed_with_its_default(repository, name):
    listed = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", (repository / name).read_text(encoding="utf-8"), re.MULTILINE))
    options = {**ValidConfig.__dataclass_fields__, **TrainConfig.__dataclass_fields__}
    assert listed.keys() == options.keys()
    defaults = {**vars(ValidConfig()), **vars(TrainConfig())}
    for option, default in defaults.items():
        if isinstance(default, (int, float)):
            assert float(listed[option]) == default, option
        elif default is not None:
            assert listed[option] == str(default).replace(" ", ""), option


@pytest.mark.parametrize("name", ["README.md", "README_ch.md"])
def test_every_file_it_names_exists(repository, name):
    text = (repository / name).read_text(encoding="utf-8")
    paths = set(re.findall(r"\b(?:arcface|configs|datasets|benchmarks|tests)/[\w/]+\.(?:py|yaml)\b", text))
    assert len(paths) >= 3
    for path in paths:
        assert (repository / path).exists(), path


def test_the_configs_are_valid(repository):
    from arcface.options.command_line import parse

    files = sorted((repository / "configs").glob("*.yaml"))
    assert files
    for file in files:
        parse(TrainConfig, ["--config", str(file)])
