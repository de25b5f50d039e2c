"""~ at the start of a path option is the home directory, in every command, as a shell has it."""

import argparse
from dataclasses import fields
from pathlib import Path

import align
import check
import convert
import demo
import merge
import pack_bin
import pytest

from arcface.config import PathName, TrainConfig, ValidConfig, parse
from arcface.errors import UserError
from arcface.io.files import user_path

NO_PATHS = {"network", "val_targets", "best_by"}  # of the options that are text; val_targets has paths in it

TOOLS = {
    align.parse: "--images ~/x --output ~/x --landmarks ~/x",
    check.parse: "--source ~/x --report ~/x --repair ~/x",
    convert.parse: "--source ~/x --output ~/x",
    demo.parse: "--output ~/x",
    merge.parse: "--sources ~/x ~/x --output ~/x --mapping ~/x --without ~/x ~/x",
    pack_bin.parse: "--images ~/x --pairs ~/x --output ~/x",
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def path_options(config_class) -> list[str]:
    return [option.name for option in fields(config_class) if PathName in (option.type, *getattr(option.type, "__args__", ()))]


@pytest.mark.parametrize("config_class", [TrainConfig, ValidConfig])
def test_every_option_that_is_text_is_a_path_or_known_as_none(config_class):
    text = {option.name for option in fields(config_class) if str in (option.type, *getattr(option.type, "__args__", ()))}
    assert text <= NO_PATHS
    assert {"data_dir", "val_dir"} <= set(path_options(config_class))


@pytest.mark.parametrize("config_class", [TrainConfig, ValidConfig])
def test_in_flags_and_in_a_file(home, config_class):
    names = path_options(config_class)
    (home / "a.yaml").write_text("".join(f"{name}: ~/x\n" for name in names))
    for arguments in ([f"--{name}=~/x" for name in names], ["--config", "~/a.yaml"], ["--config=~/a.yaml"]):
        config = parse(config_class, arguments)
        assert {name: getattr(config, name) for name in names} == dict.fromkeys(names, f"{home}/x")
        assert all(type(getattr(config, name)) is str for name in names)


def test_only_at_the_start_and_for_nothing_else():
    config = parse(TrainConfig, ["--output=a/~/x", "--logdir=~x y", "--network=~/x", "--val_dir=./~"])
    assert (config.output, config.logdir, config.network, config.val_dir) == ("a/~/x", "~x y", "~/x", "./~")


def test_verification_sets_by_name_by_file_name_and_by_path(home):
    config = parse(TrainConfig, ["--data_dir=d", "--val_targets=lfw, cfp_fp.bin,~/more/agedb_30"])
    assert config.val_files == [Path("d/lfw.bin"), Path("d/cfp_fp.bin"), home / "more" / "agedb_30.bin"]


@pytest.mark.parametrize("parse_tool", TOOLS, ids=lambda function: function.__module__)
def test_in_the_tools(home, parse_tool):
    values = vars(parse_tool(TOOLS[parse_tool].split())).values()
    paths = [path for value in values for path in (value if isinstance(value, list) else [value]) if isinstance(path, Path)]
    assert len(paths) == TOOLS[parse_tool].count("~") and set(paths) == {home / "x"}


def test_the_tools_know_no_other_kind_of_path(repository):
    for module in [*(repository / "datasets").glob("*.py"), Path(convert.__file__)]:
        assert "type=Path" not in module.read_text()
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=user_path)
    assert parser.parse_args(["~"]).source == Path.home()


def test_a_home_that_nobody_knows_is_named(monkeypatch):
    monkeypatch.setenv("HOME", "~")
    with pytest.raises(UserError, match="^~/x: the home directory is unknown; write the path without ~, or set HOME$"):
        user_path("~/x")
