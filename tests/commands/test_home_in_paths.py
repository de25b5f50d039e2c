"""~ at the start of a path option is the home directory, in every command, as a shell has it."""

from pathlib import Path

import pytest

from arcface.config import CompareConfig, EmbedConfig, ExportOptions, TrainConfig, ValidConfig, parse
from arcface.data.align_photos import AlignOptions
from arcface.data.checks import CheckOptions
from arcface.data.convert import ConvertOptions
from arcface.data.merge import MergeOptions
from arcface.data.synthetic import DemoOptions
from arcface.errors import UserError
from arcface.io.files import user_path
from arcface.options.command_line import options_of
from arcface.options.kinds import FilePath, Text
from arcface.verification.pack_bin import PackOptions

NO_PATHS = {"network", "val_targets", "best_by", "freeze"}  # of the options that are text; val_targets has paths in it

TOOLS = {
    AlignOptions: "--images ~/x --output ~/x --landmarks ~/x",
    CheckOptions: "--source ~/x --report ~/x --repair ~/x",
    ConvertOptions: "--source ~/x --output ~/x",
    DemoOptions: "--output ~/x",
    MergeOptions: "--sources ~/x ~/x --output ~/x --mapping ~/x --without ~/x ~/x",
    PackOptions: "--images ~/x --pairs ~/x --output ~/x",
}
OF_WEIGHTS = {
    ExportOptions: "--output ~/x --checkpoint ~/x",
    EmbedConfig: "~/x --output ~/x --checkpoint ~/x --detector ~/x",
    CompareConfig: "~/x ~/x --report ~/x --checkpoint ~/x --detector ~/x",
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def path_options(config_class) -> list[str]:
    return [option.name for option in options_of(config_class).values() if isinstance(option.kind, FilePath)]


@pytest.mark.parametrize("config_class", [TrainConfig, ValidConfig])
def test_every_option_that_is_text_is_a_path_or_known_as_none(config_class):
    kinds = {option.name: option.kind for option in options_of(config_class).values()}
    text = {name for name, kind in kinds.items() if type(kind) is Text and kind.pattern == Text.pattern}
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


@pytest.mark.parametrize("options_class, line", [*TOOLS.items(), *OF_WEIGHTS.items()])
def test_in_the_tools_and_in_embed_and_compare(home, options_class, line):
    options = vars(parse(options_class, line.split()))
    values = [text for value in options.values() for text in (value if isinstance(value, list) else [value])]
    assert values.count(f"{home}/x") == line.count("~")


@pytest.mark.parametrize("options_class", TOOLS)
def test_the_tools_know_no_other_kind_of_path(options_class):
    assert Text not in [type(option.kind) for option in options_of(options_class).values()]


def test_a_home_that_nobody_knows_is_named(monkeypatch):
    monkeypatch.setenv("HOME", "~")
    with pytest.raises(UserError, match="^~/x: the home directory is unknown; write the path without ~, or set HOME$"):
        user_path("~/x")
