"""The promises of datasets/pack_bin.py: crops and a list of pairs become a verification set, or one line says why not."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from arcface import pack_bin as command
from arcface.data.bin_file import read_bin
from arcface.errors import UserError
from arcface.options.command_line import parse
from arcface.verification import pack_bin

SCRIPT = Path(__file__).resolve().parents[2] / "datasets" / "pack_bin.py"
PAIRS = [(0, 1, 1), (2, 3, 0), (0, 2, 0), (4, 1, 1), (3, 3, 1)]


@pytest.fixture
def crops(make_data_set, tmp_path) -> Path:
    """A copy of a directory of 6 crops, 00000000.jpg and on."""
    return Path(shutil.copytree(make_data_set(images=6, identities=2) / "images", tmp_path / "crops"))


def crop(number: int) -> str:
    return f"{number:08d}.jpg"


@pytest.fixture
def pairs(tmp_path) -> Path:
    file = tmp_path / "pairs.txt"
    file.write_text("".join(f"{crop(first)}\t{crop(second)}\t{same}\n" for first, second, same in PAIRS))
    return file


def options(crops: Path, pairs: Path, output: Path, *more: str) -> list[str]:
    return ["--images", str(crops), "--pairs", str(pairs), "--output", str(output), *more]


def refusal(crops: Path, pairs: Path, output: Path, *more: str) -> str:
    """Pack what must not be packed; nothing is written."""
    place = output if output.is_dir() else output.parent
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as caught:
        command.main(options(crops, pairs, output, *more))
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def script(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    """Run as a user does, from a folder that is not the repository."""
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, cwd=folder)


def test_a_list_of_paths_is_packed(crops, pairs, tmp_path):
    done = script("--images=crops", "--pairs=pairs.txt", "--output=mine.bin", folder=tmp_path)
    output = tmp_path / "mine.bin"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"mine.bin: 5 pairs, 5 distinct images, {output.stat().st_size} bytes\n"
    content = read_bin(output)
    assert content.images == [(crops / crop(number)).read_bytes() for pair in PAIRS for number in pair[:2]]
    assert content.is_same.tolist() == [bool(pair[2]) for pair in PAIRS]
    assert pickle.loads(output.read_bytes(), encoding="bytes") == (content.images, content.is_same.tolist())


def test_lfw_is_packed(crops, tmp_path, capsys):
    for name, numbers in {"Ann_Lee": (1, 2), "Bo": (1, 12)}.items():
        (tmp_path / "lfw" / name).mkdir(parents=True)
        for number in numbers:
            (crops / crop(len(list(tmp_path.glob("lfw/*/*"))))).rename(tmp_path / "lfw" / name / f"{name}_{number:04d}.jpg")
    bo = tmp_path / "lfw" / "Bo" / "Bo_0012.jpg"
    cv2.imwrite(str(bo.with_suffix(".png")), cv2.imread(str(bo)))
    bo.unlink()
    (tmp_path / "pairs.txt").write_text("1\t2\nAnn_Lee\t1\t2\nBo\t1\t12\nAnn_Lee\t2\tBo\t12\nBo\t1\tAnn_Lee\t1\n")
    command.main(options(tmp_path / "lfw", tmp_path / "pairs.txt", tmp_path / "lfw.bin"))
    files = [
        "Ann_Lee/Ann_Lee_0001.jpg",
        "Ann_Lee/Ann_Lee_0002.jpg",
        "Bo/Bo_0001.jpg",
        "Bo/Bo_0012.png",
        "Ann_Lee/Ann_Lee_0002.jpg",
        "Bo/Bo_0012.png",
        "Bo/Bo_0001.jpg",
        "Ann_Lee/Ann_Lee_0001.jpg",
    ]
    content = read_bin(tmp_path / "lfw.bin")
    assert content.images == [(tmp_path / "lfw" / file).read_bytes() for file in files]
    assert content.is_same.tolist() == [True, True, False, False]
    assert "4 pairs, 4 distinct images" in capsys.readouterr().out


def test_each_image_is_read_once(crops, pairs, tmp_path, monkeypatch):
    read, read_bytes = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or read_bytes(path))
    command.main(options(crops, pairs, tmp_path / "mine.bin"))
    assert read == ["pairs.txt", *map(crop, (0, 1, 2, 3, 4))]


def test_an_existing_file_is_replaced_only_when_told(crops, pairs, tmp_path, capsys):
    output = tmp_path / "mine.bin"
    output.write_bytes(b"a year's work")
    assert "--overwrite" in refusal(crops, pairs, output)
    assert f"{tmp_path}: is a directory" in refusal(crops, pairs, tmp_path, "--overwrite")
    command.main(options(crops, pairs, output, "--overwrite"))
    assert len(read_bin(output).is_same) == 5
    assert sorted(os.listdir(tmp_path)) == ["crops", "mine.bin", "pairs.txt"]


def test_a_place_that_cannot_be_written_is_found_before_any_image_is_read(crops, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(pack_bin, "read_pairs", lambda _: pytest.fail("read too early"))
    assert "directory does not exist" in refusal(crops, pairs, tmp_path / "absent" / "mine.bin")
    (tmp_path / "mine.bin").touch()
    assert "--overwrite" in refusal(crops, pairs, tmp_path / "mine.bin")


def test_all_missing_images_are_counted_before_any_is_read(crops, pairs, tmp_path, monkeypatch):
    (crops / crop(1)).unlink()
    (crops / crop(3)).unlink()
    monkeypatch.setattr(pack_bin, "read_images", lambda _: pytest.fail("read too early"))
    message = refusal(crops, pairs, tmp_path / "mine.bin")
    assert message.startswith(f"{pairs} line 1: {crop(1)}: no such file in {crops} (2 of 5 images are missing)")


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"", "not an image"),
        (b"\xff\xd8\xff\xe0 half a JPEG", "not an image"),
        (cv2.imencode(".png", np.zeros((250, 250, 3), np.uint8))[1].tobytes(), "250x250 pixels, not 112x112; align"),
    ],
    ids=["empty", "damaged", "not aligned"],
)
def test_the_first_bad_image_is_named(crops, pairs, tmp_path, content, complaint):
    for number in 2, 3:
        (crops / crop(number)).write_bytes(content)
    message = refusal(crops, pairs, tmp_path / "mine.bin")
    assert message.startswith(f"{crops / crop(2)}: ") and complaint in message


def test_a_bad_image_that_no_pair_shows_is_not_read(crops, pairs, tmp_path):
    (crops / crop(5)).write_bytes(b"")
    command.main(options(crops, pairs, tmp_path / "mine.bin"))


def test_an_image_that_cannot_be_read_is_named(crops, pairs, tmp_path, monkeypatch):
    read_bytes = Path.read_bytes

    def failing(path):
        if path.name == crop(2):
            raise OSError(5, "Input/output error")
        return read_bytes(path)

    monkeypatch.setattr(pack_bin.Path, "read_bytes", failing)
    with pytest.raises(UserError, match=f"{crop(2)}: cannot be read .Input/output error"):
        command.main(options(crops, pairs, tmp_path / "mine.bin"))


def test_a_path_outside_the_image_directory_is_refused(crops, pairs, tmp_path):
    (tmp_path / "secret.jpg").write_bytes((crops / crop(0)).read_bytes())
    for path in "../secret.jpg", str(tmp_path / "secret.jpg"):
        pairs.write_text(f"{crop(0)} {crop(1)} 1\n{path} {crop(1)} 0\n")
        assert f"{pairs} line 2: " in refusal(crops, pairs, tmp_path / "mine.bin")


def test_an_error_is_one_line_and_exit_code_2(crops, pairs, tmp_path):
    (crops / crop(4)).write_bytes(b"")
    for arguments, words in [
        (options(crops, pairs, tmp_path / "mine.bin"), "not an image"),
        (["--images", "crops"], "--pairs, --output: required"),
        ([*options(crops, pairs, tmp_path / "mine.bin"), "--pear"], "--pear"),
    ]:
        done = script(*arguments, folder=tmp_path)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and words in done.stderr
    assert not (tmp_path / "mine.bin").exists()


def test_help_shows_a_command_that_works(crops, pairs, tmp_path):
    done = script("--help", folder=tmp_path)
    line = next(line for line in done.stdout.splitlines() if "python datasets/pack_bin.py" in line)
    assert parse(pack_bin.PackOptions, line.split()[2:]).images == "lfw_112x112"


def test_no_paddle_is_imported(crops, pairs, tmp_path):
    code = "import sys; from arcface import pack_bin; pack_bin.main(sys.argv[1:]); sys.exit('paddle' in sys.modules)"
    command = [sys.executable, "-c", code, *options(crops, pairs, tmp_path / "mine.bin")]
    subprocess.run(command, check=True, capture_output=True)


def test_the_real_lfw_unpacked_and_packed_is_the_same(real_data, tmp_path, capsys):
    original = read_bin(real_data / "lfw.bin")
    names = {image: f"faces {number % 7}/{number:05d}.jpg" for number, image in enumerate(dict.fromkeys(original.images))}
    for image, name in names.items():
        (tmp_path / "crops" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "crops" / name).write_bytes(image)
    pairs = zip(original.images[::2], original.images[1::2], original.is_same, strict=True)
    lines = (f"{names[first]}\t{names[second]}\t{same:d}\n" for first, second, same in pairs)
    (tmp_path / "pairs.txt").write_text("".join(lines))
    command.main(options(tmp_path / "crops", tmp_path / "pairs.txt", tmp_path / "lfw.bin"))
    packed = read_bin(tmp_path / "lfw.bin")
    assert packed.images == original.images and (packed.is_same == original.is_same).all()
    size = (tmp_path / "lfw.bin").stat().st_size
    assert capsys.readouterr().out == f"{tmp_path / 'lfw.bin'}: 6000 pairs, 7701 distinct images, {size} bytes\n"
    assert size < (real_data / "lfw.bin").stat().st_size
