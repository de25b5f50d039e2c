"""pack_bin.py --skip_missing: pairs of missing images are left out, said and listed; without it they stop the packing."""

from pathlib import Path

import numpy as np
import pytest

from arcface import pack_bin as command
from arcface.data.bin_file import read_bin
from arcface.errors import UserError

PEOPLE, EACH = 20, 2


@pytest.fixture
def crops(make_data_set, tmp_path) -> Path:
    """LFW's layout: 20 people with two images each."""
    images = sorted((make_data_set(PEOPLE * EACH, 2) / "images").iterdir())
    for number, image in enumerate(images):
        person = f"P{number // EACH:02d}"
        (tmp_path / "crops" / person).mkdir(parents=True, exist_ok=True)
        (tmp_path / "crops" / person / f"{person}_{number % EACH + 1:04d}.jpg").write_bytes(image.read_bytes())
    return tmp_path / "crops"


@pytest.fixture
def pairs(tmp_path) -> Path:
    """Ten folds of two pairs of one person and two of two, as in LFW's list: 40 pairs, of which pair 4k + 2 shows 2k and 2k + 1."""
    lines = [f"{PEOPLE // 2}\t{EACH}"]
    for first in range(0, PEOPLE, 2):
        one, two = f"P{first:02d}", f"P{first + 1:02d}"
        lines += [f"{one}\t1\t2", f"{two}\t1\t2", f"{one}\t1\t{two}\t1", f"{one}\t2\t{two}\t2"]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    return tmp_path / "pairs.txt"


def remove(crops: Path, *names: str) -> None:
    for name in names:
        (crops / name[:3] / f"{name}.jpg").unlink()


def options(crops: Path, pairs: Path, output: Path, *more: str) -> list[str]:
    return ["--images", str(crops), "--pairs", str(pairs), "--output", str(output), *more]


def files(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def refusal(crops: Path, *arguments) -> str:
    before = files(crops.parent)
    with pytest.raises(UserError) as refused:
        command.main(options(crops, *arguments))
    assert files(crops.parent) == before and "\n" not in str(refused.value)
    return str(refused.value)


def test_the_pairs_of_missing_images_are_left_out_said_and_listed(crops, pairs, tmp_path, capsys):
    command.main(options(crops, pairs, tmp_path / "whole.bin"))
    assert not (tmp_path / "whole.missing.txt").exists()
    whole = read_bin(tmp_path / "whole.bin")
    remove(crops, "P04_0001", "P17_0002")
    capsys.readouterr()
    command.main(options(crops, pairs, tmp_path / "some.bin", "--skip_missing=2"))
    output = capsys.readouterr().out.splitlines()
    out = [8, 10, 33, 35]  # pairs, counted from 0
    kept = [pair for pair in range(40) if pair not in out]
    some = read_bin(tmp_path / "some.bin")
    assert some.images == [whole.images[2 * pair + side] for pair in kept for side in (0, 1)]
    assert some.is_same.tolist() == whole.is_same[kept].tolist()
    assert (tmp_path / "some.missing.txt").read_text() == "P04/P04_0001\t10,12\nP17/P17_0002\t35,37\n"
    fold = np.repeat(np.arange(10), [4] * 6 + [3] * 4)  # of the 36 that are left: the first six folds have one pair more
    moved = sum(pair // 4 != new for pair, new in zip(kept, fold, strict=True))
    assert output[0].startswith(f"{tmp_path / 'some.bin'}: 36 pairs, 38 distinct images, ")
    assert output[1] == (
        f"{tmp_path / 'some.missing.txt'}: 2 missing images: P04/P04_0001, P17/P17_0002; 4 pairs left out, 2 of one identity;"
        f" {moved} of the others are in another of the 10 folds than in the whole list"
    )
    assert moved > 0 and len(output) == 2


def test_by_default_and_beyond_the_number_it_stops_and_writes_nothing(crops, pairs, tmp_path):
    remove(crops, "P04_0001", "P17_0002", "P00_0001")
    message = refusal(crops, pairs, tmp_path / "some.bin")
    assert "line 2: P00/P00_0001.jpg or .png: no such file" in message and "(3 of 40 images are missing)" in message
    assert message.endswith("or leave out their pairs with --skip_missing 3")
    message = refusal(crops, pairs, tmp_path / "some.bin", "--skip_missing=2")
    assert "(3 of 40 images are missing, 2 may be)" in message
    command.main(options(crops, pairs, tmp_path / "some.bin", "--skip_missing=3"))


def test_where_none_is_missing_the_set_is_the_same_and_an_old_list_goes(crops, pairs, tmp_path, capsys):
    command.main(options(crops, pairs, tmp_path / "whole.bin"))
    (tmp_path / "some.missing.txt").write_text("old")
    assert "some.missing.txt: exists already" in refusal(crops, pairs, tmp_path / "some.bin", "--skip_missing=5")
    capsys.readouterr()
    command.main(options(crops, pairs, tmp_path / "some.bin", "--skip_missing=5", "--overwrite"))
    assert (tmp_path / "some.bin").read_bytes() == (tmp_path / "whole.bin").read_bytes()
    assert not (tmp_path / "some.missing.txt").exists() and capsys.readouterr().out.count("\n") == 1


def test_what_is_left_must_be_a_set(crops, pairs, tmp_path):
    everyone = [f"P{person:02d}_000{image}" for person in range(PEOPLE) for image in (1, 2)]
    remove(crops, *everyone[1::2])
    message = refusal(crops, pairs, tmp_path / "some.bin", "--skip_missing=40")
    assert "all 10 pairs show different identities" in message
    remove(crops, *everyone[0::2])
    message = refusal(crops, pairs, tmp_path / "some.bin", "--skip_missing=40")
    assert "each of its pairs lacks an image" in message


def test_a_damaged_image_is_not_a_missing_one_and_a_wrong_number_is_explained(crops, pairs, tmp_path):
    (crops / "P03" / "P03_0001.jpg").write_bytes(b"no image")
    assert "P03_0001.jpg: not an image" in refusal(crops, pairs, tmp_path / "some.bin", "--skip_missing=5")
    assert "--skip_missing: " in refusal(crops, pairs, tmp_path / "some.bin", "--skip_missing=-1")
    assert "--skip_missing" in refusal(crops, pairs, tmp_path / "some.bin", "--skip_missing=few")


def test_many_missing_images_are_listed_but_not_all_named(crops, pairs, tmp_path, capsys):
    remove(crops, *(f"P{person:02d}_0001" for person in range(14)))
    command.main(options(crops, pairs, tmp_path / "some.bin", "--skip_missing=14"))
    assert "14 missing images: P00/P00_0001, " in (output := capsys.readouterr().out) and "P09/P09_0001 and 4 more; " in output
    assert len((tmp_path / "some.missing.txt").read_text().splitlines()) == 14
