"""Options: published defaults, file first and flags on top, mistakes explained."""

import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from arcface.config import TrainConfig, ValidConfig, parse
from arcface.errors import UserError
from arcface.options.command_line import POSITIONAL
from arcface.options.kinds import PathName

PUBLISHED = {
    "network": "MobileFaceNet_128",
    "lr": 0.1,
    "batch_size": 512,
    "weight_decay": 2e-4,
    "embedding_size": 128,
    "logdir": "log",
    "output": "emore_arcface",
    "resume": 0,
    "num_epoch": 32,
    "warmup_epoch": 1,
    "decay_epochs": [6, 12, 18, 24],
    "val_targets": "lfw,cfp_fp,agedb_30",
    "val_interval": 2000,
}


def test_the_published_defaults_stay():
    config = parse(TrainConfig, [])
    assert {name: getattr(config, name) for name in PUBLISHED} == PUBLISHED
    assert parse(ValidConfig, []).checkpoint == "emore_arcface"


def test_the_published_command_lines_are_understood():
    line = (
        "--network MobileFaceNet_128 --lr=0.1 --batch_size 512 --weight_decay 2e-4 --embedding_size 128 "
        "--logdir=log --output emore_arcface --resume 0"
    )
    assert parse(TrainConfig, line.split()) == parse(TrainConfig, [])


@pytest.mark.parametrize("order", ["file first", "flags first"])
def test_flags_override_the_file_wherever_they_stand(tmp_path, order):
    file = tmp_path / "a.yaml"
    file.write_text("lr: 0.3\nbatch_size: 64\ndecay_epochs: [1, 2]\n")
    arguments = ["--config", str(file), "--lr", "0.5"] if order == "file first" else ["--lr=0.5", f"--config={file}"]
    config = parse(TrainConfig, arguments)
    assert (config.lr, config.batch_size, config.decay_epochs) == (0.5, 64, [1, 2])


def test_a_number_in_a_file_may_have_an_exponent(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("lr: 1e-3\nmax_steps: 1e3\nwarmup_epoch: .5e1\nscale: 6.4E+1\n")
    config = parse(TrainConfig, ["--config", str(file)])
    assert (config.lr, config.max_steps, config.warmup_epoch, config.scale) == (0.001, 1000, 5, 64)


def test_every_option_has_a_help_text(capsys):
    for config_class in (TrainConfig, ValidConfig):
        with pytest.raises(SystemExit):
            parse(config_class, ["--help"])
        options = " ".join(capsys.readouterr().out.partition("options:")[2].split())
        for name in config_class.__dataclass_fields__:
            assert re.search(rf"--{name} \S+ (\S+ ){{5,}}\(.*?default: ", options), name


def test_help_and_mistakes_do_not_wait_for_paddle(repository):
    code = "import sys, train; sys.argv[1:] = [{!r}]\ntry: train.main()\nexcept BaseException: pass\nprint('paddle' in sys.modules)"
    for flag in ("--help", "--nonsense"):
        done = subprocess.run([sys.executable, "-c", code.format(flag)], capture_output=True, text=True, cwd=repository)
        assert done.stdout.endswith("False\n"), done


def test_verification_sets_lie_beside_a_data_set_that_is_a_file(tmp_path):
    (tmp_path / "train.rec").touch()
    assert TrainConfig(data_dir=str(tmp_path / "train.rec"), val_targets="lfw").val_files == [tmp_path / "lfw.bin"]
    assert TrainConfig(data_dir=str(tmp_path), val_targets="lfw").val_files == [tmp_path / "lfw.bin"]
    assert TrainConfig(data_dir=str(tmp_path / "train.rec"), val_dir="sets", val_targets="lfw").val_files == [Path("sets/lfw.bin")]


def test_a_window_of_steps_is_text_that_yaml_would_take_for_minutes(tmp_path):
    assert parse(TrainConfig, ["--profile=9:10"]).profile == "9:10" and parse(TrainConfig, []).profile is None
    file = tmp_path / "a.yaml"
    file.write_text("profile: 9:10")
    with pytest.raises(UserError, match="profile: must be text; put it in quotes"):
        parse(TrainConfig, [f"--config={file}"])
    file.write_text("profile: '9:10'")
    assert parse(TrainConfig, [f"--config={file}"]).profile == "9:10"


@dataclass(kw_only=True)
class ToolOptions:
    """A tool"""

    source: PathName = field(metadata=POSITIONAL)
    """What is read by the tool first of all."""
    others: list[PathName]
    """What is read by the tool after that."""
    more: list[PathName] = field(default_factory=list)
    """What is read by the tool at the end."""
    overwrite: bool = False
    """Replace what 100% of users want to keep."""


def test_options_of_a_tool(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    options = parse(ToolOptions, "a=b --others x ~/y --overwrite --more z".split())
    assert options == ToolOptions(source="a=b", others=["x", "/home/me/y"], more=["z"], overwrite=True)
    assert parse(ToolOptions, "--others=x a".split()) == ToolOptions(source="a", others=["x"])
    file = tmp_path / "a.yaml"
    file.write_text("source: a\nothers: [x, y]\noverwrite: true\n")
    assert parse(ToolOptions, ["--config", str(file)]) == ToolOptions(source="a", others=["x", "y"], overwrite=True)


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ("", "SOURCE, --others: required; see --help"),
        ("a --others", "--others: has no value; pass one or leave the option out"),
        ("a b --others c", None),
        ("a --others c --overwrite=maybe", "--overwrite: must be true or false, not maybe"),
        ("--others c -- a", "unexpected argument '--'; options are written --name value, see --help"),
        ("--source a --others c", "unknown option --source; did you mean --more? --help lists all"),
    ],
)
def test_mistakes_with_the_options_of_a_tool(arguments, complaint):
    with pytest.raises(UserError) as error:
        parse(ToolOptions, arguments.split())
    assert str(error.value) == (complaint or "unexpected argument 'b'; options are written --name value, see --help")


def test_help_of_a_tool(capsys):
    with pytest.raises(SystemExit):
        parse(ToolOptions, ["--help"])
    text = capsys.readouterr().out
    assert "Replace what 100% of users want to keep." in " ".join(text.split())
    assert "--others OTHERS [OTHERS ...]" in text and "[--overwrite]" in text


def test_the_options_of_a_run_can_be_printed_and_read_again(tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse(TrainConfig, ["--print_config", "--lr=0.3", "--decay_epochs=[1]"])
    file = tmp_path / "a.yaml"
    file.write_text(capsys.readouterr().out)
    assert parse(TrainConfig, [f"--config={file}"]) == parse(TrainConfig, ["--lr=0.3", "--decay_epochs=[1]"])


def test_what_yaml_makes_of_a_word_is_read_as_the_option_means_it(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text('lr: 1e-3\nresume: true\nbatch_size: 64.0\nseed: "7"\ndecay_epochs: ["6", 1e1]\nval_dir: null\n')
    config = parse(TrainConfig, [f"--config={file}", "--best_by=null"])
    assert (config.lr, config.batch_size, config.seed, config.decay_epochs) == (0.001, 64, 7, [6, 10])
    assert (config.resume, config.val_dir, config.best_by) == (1, None, None)
    assert [type(value) for value in (config.resume, config.batch_size, config.decay_epochs[0])] == [int, int, float]
