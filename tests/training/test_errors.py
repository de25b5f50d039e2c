"""Every mistake ends in one line on stderr and exit code 2, and writes nothing."""

import os
import pickle
import subprocess
import sys

import pytest

import train
import valid


@pytest.fixture(scope="module")
def data_set(make_data_set):
    directory = make_data_set(8, 4)
    images = [(directory / "images" / f"{index:08d}.jpg").read_bytes() for index in range(8)]
    (directory / "tiny.bin").write_bytes(pickle.dumps((images, [True, False, True, False])))
    (directory / "odd.bin").write_bytes(pickle.dumps((images, [True, False, True])))
    return directory


def _is_empty(path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def sound_options(data_set, tmp_path) -> list[str]:
    return [f"--data_dir={data_set}", f"--output={tmp_path / 'out'}", f"--logdir={tmp_path / 'log'}", "--batch_size=4",
            "--num_workers=0", "--max_steps=1", "--device=cpu"]  # fmt: skip


@pytest.fixture
def refused_train(refused, monkeypatch, data_set, tmp_path):
    """Returns a function that calls train.py with options on a sound data set and returns its complaint."""

    def call(*options) -> str:
        before = sorted(tmp_path.rglob("*"))
        sound = sound_options(data_set, tmp_path)
        monkeypatch.setattr(sys, "argv", ["train.py", *sound, "--val_targets=tiny", *map(str, options)])
        complaint = refused(train.main)
        assert [path for path in sorted(tmp_path.rglob("*")) if not _is_empty(path)] == before
        return complaint

    return call


def broken_list(data_set, tmp_path, content: str) -> str:
    (tmp_path / "list.txt").write_text(content)
    return f"--label_file={os.path.relpath(tmp_path / 'list.txt', data_set)}"


@pytest.mark.parametrize(
    "options, complaint",
    [
        (["--lrr=1"], "did you mean --lr?"),
        (["--network=ResNet"], "--network ResNet: no such backbone; did you mean MobileFaceNet_128?"),
        (["--data_dir=nowhere"], "nowhere/label.txt: No such file"),
        (["--label_file=nothing.txt"], "nothing.txt: No such file"),
        (["--num_classes=3"], "label 3 is not below --num_classes 3"),
        (["--val_targets=lfw"], "lfw.bin"),
        (["--val_targets=odd"], "odd.bin: 8 images for 3 pairs"),
        (["--resume=1"], "no checkpoint to resume from"),
        (["--output=/proc/nowhere"], "/proc/nowhere cannot be written"),
        (["--logdir=/proc/nowhere"], "/proc/nowhere cannot be written"),
    ],
)
def test_a_wrong_option_is_explained(refused_train, options, complaint):
    assert complaint in refused_train(*options)


def test_a_device_that_is_not_there_is_explained(refused_train):
    import paddle

    if paddle.device.is_compiled_with_cuda():
        pytest.skip("this Paddle may have a GPU")
    assert "--device gpu: this paddlepaddle" in refused_train("--device=gpu")


@pytest.mark.parametrize(
    "content, complaint",
    [
        ("images/00000000.jpg\t0\nimages/00000001.jpg\n", "list.txt line 2"),
        ("images/00000000.jpg\t0\nimages/00000001.jpg\t-1\n", "list.txt line 2: 'images/00000001.jpg -1' has a label"),
        ("images/00000000.jpg\t0\nimages/00000001.jpg\t2\n", "no line has label 1"),
        ("images/00000000.jpg\t0\nimages/missing.jpg\t1\n", "list.txt line 2: images/missing.jpg: no such file"),
        ("images/00000000.jpg\t0\nlabel.txt\t1\n", "list.txt line 2: label.txt: not an image"),
    ],
)
def test_a_wrong_list_is_explained(refused_train, data_set, tmp_path, content, complaint):
    option = broken_list(data_set, tmp_path, content)
    assert complaint in refused_train(option)


def test_more_ranks_than_divide_the_batch_are_refused(refused_train, monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "3")
    assert "--batch_size 4 is the global batch and must be divisible by the 3 ranks" in refused_train()


def test_images_that_turn_bad_during_training_are_reported_and_past_the_limit_stop_the_run(
    refused, monkeypatch, make_data_set, tmp_path, capsys
):
    directory = make_data_set(8, 4)
    for index in (1, 2, 5):
        (directory / "images" / f"{index:08d}.jpg").write_bytes(b"damaged")
    common = ["train.py", f"--data_dir={directory}", f"--logdir={tmp_path / 'log'}", "--batch_size=4", "--num_workers=0",
              "--val_targets=", "--device=cpu", "--scan_images=0", "--num_epoch=3", "--log_interval=2"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [*common, f"--output={tmp_path / 'a'}", "--max_bad_images=2"])
    assert "3 unreadable images, more than --max_bad_images" in refused(train.main)
    monkeypatch.setattr(sys, "argv", [*common, f"--output={tmp_path / 'b'}", "--max_bad_images=3"])
    train.main()
    log = (tmp_path / "b" / "training.log").read_text()
    assert [f"line {index + 1}: images/{index:08d}.jpg: not an image" in log for index in range(8)] == [
        index in (1, 2, 5) for index in range(8)
    ]
    assert "Global Step: 6" in log


def test_weights_to_start_from_that_do_not_fit_are_refused(refused_train, tmp_path):
    import paddle

    from arcface.backbones import create_backbone

    file = tmp_path / "other.pdparams"
    paddle.save(create_backbone("MobileFaceNet_128", 64).state_dict(), str(file))
    complaint = refused_train(f"--init_from={file}")
    assert f"{file}: linear1.conv.weight has shape [64, 512, 1, 1], this network's is [128, 512, 1, 1]" in complaint
    paddle.save(paddle.nn.Linear(2, 3).state_dict(), str(file))
    complaint = refused_train(f"--init_from={file}")
    assert f"{file}: weights of another network: 283 names missing, such as blocks.0" in complaint
    file.write_bytes(b"damaged")
    assert f"{file}: cut off, damaged or no pickle" in refused_train(f"--init_from={file}")
    assert "nothing.pdparams: cannot be read (No such file" in refused_train(f"--init_from={tmp_path / 'nothing.pdparams'}")
    assert f"{tmp_path}: cannot be read (Is a directory); give a <network>.pdparams" in refused_train(f"--init_from={tmp_path}")


@pytest.fixture
def trained(monkeypatch, data_set, tmp_path):
    """A finished run's directory, and the options that it had."""
    options = [*sound_options(data_set, tmp_path), "--val_targets="]
    monkeypatch.setattr(sys, "argv", ["train.py", *options])
    train.main()
    return tmp_path / "out", options


def test_resuming_another_run_or_a_damaged_one_is_refused(trained, refused, monkeypatch, make_data_set):
    output, options = trained

    def resume(*changed):
        monkeypatch.setattr(sys, "argv", ["train.py", *options, "--resume=1", *map(str, changed)])
        return refused(train.main)

    assert "was trained with embedding_size 128, not 64" in resume("--embedding_size=64")
    assert "was trained with batch_size 4, not 8" in resume("--batch_size=8")
    assert "was trained with seed 0, not 1" in resume("--seed=1")
    assert "was trained with num_classes 4, not 2" in resume(f"--data_dir={make_data_set(8, 2)}")
    assert "was trained with labels" in resume(f"--data_dir={make_data_set(9, 4)}")
    (output / "latest" / "rank:0_softmax_weight.pkl").unlink()
    assert "missing rank:0_softmax_weight.pkl" in resume()


@pytest.mark.parametrize(
    "options, complaint",
    [
        (["--checkpoint=nowhere"], "nowhere: looked for MobileFaceNet_128.pdparams"),
        (["--network=ResNet"], "did you mean MobileFaceNet_128"),
        (["--val_targets=lfw"], "lfw.bin"),
        (["--val_targets="], "--val_targets is empty"),
        (["--val_targets=a/lfw,b/lfw"], "--val_targets: several sets are called lfw"),
        ([f"--val_targets={'x' * 300}"], ".bin: cannot be read (File name too long)"),
        (["--network=" + "x" * 300], "no such backbone"),
        (["--embedding_size=64"], "linear1.conv.weight has shape [128, 512, 1, 1], this network's is [64, 512, 1, 1]"),
        (["--lr=1"], "unknown option --lr"),
    ],
)
def test_valid_explains_what_it_cannot_do(refused, monkeypatch, data_set, tmp_path, options, complaint):
    import paddle

    from arcface.backbones import create_backbone

    paddle.save(create_backbone("MobileFaceNet_128", 128).state_dict(), str(tmp_path / "MobileFaceNet_128.pdparams"))
    sound = [f"--checkpoint={tmp_path}", f"--data_dir={data_set}", "--val_targets=tiny", "--device=cpu"]
    monkeypatch.setattr(sys, "argv", ["valid.py", *sound, *options])
    assert complaint in refused(valid.main)


@pytest.mark.parametrize("script", ["train.py", "valid.py"])
def test_the_scripts_themselves_end_with_one_line_and_exit_code_2(repository, script):
    done = subprocess.run([sys.executable, script, "--data_dir", "nowhere", "--checkpoint" if script == "valid.py" else "--output",
                           "nowhere"], cwd=repository, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: nowhere") and done.stderr.count("\n") == 1, done.stderr
    assert not (repository / "nowhere").exists()
