"""Options: published defaults, file first and flags on top, mistakes explained."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from arcface.config import TrainConfig, ValidConfig, parse

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


def test_every_option_has_a_help_text(capsys):
    for config_class in (TrainConfig, ValidConfig):
        with pytest.raises(SystemExit):
            parse(config_class, ["--help"])
        options = " ".join(capsys.readouterr().out.partition("options:")[2].split())
        for name in config_class.__dataclass_fields__:
            assert re.search(rf"--{name} \S+ (\S+ ){{5,}}\(type: ", options), name


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
