"""datasets/convert.py --relabel: labels with gaps become 0, 1, ..., and a table says who was who."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from arcface import convert
from arcface.data.datasets.base import open_dataset
from arcface.data.recordio import encode
from arcface.errors import UserError

OLD = [40, 7, 7, 2_000_000_000, 40, 0]
NEW = [2, 1, 1, 3, 2, 0]
TABLE = "0\t0\n1\t7\n2\t40\n3\t2000000000\n"
CONTENTS = [cv2.imencode(".png", np.full((112, 112, 3), 10 * number, np.uint8))[1].tobytes() for number in range(len(OLD))]


@pytest.fixture
def source(tmp_path) -> Path:
    """A list with gaps, in the directory of its images."""
    (tmp_path / "set" / "images").mkdir(parents=True)
    for number, content in enumerate(CONTENTS):
        (tmp_path / "set" / "images" / f"{number}.png").write_bytes(content)
    (tmp_path / "set" / "label.txt").write_text("".join(f"images/{number}.png\t{label}\n" for number, label in enumerate(OLD)))
    return tmp_path / "set"


def run(source: Path, output: Path, *more: str) -> Path:
    output.parent.mkdir(exist_ok=True)
    convert.main(["--source", str(source), "--output", str(output), "--relabel", *more])
    return output


def seen(path: Path) -> list[tuple[int, bytes]]:
    source = open_dataset(path)
    return [(label, source.encoded(index)) for index, label in enumerate(source.labels.tolist())]


def test_without_the_option_gaps_are_refused_and_the_option_is_named(source, tmp_path):
    with pytest.raises(UserError, match="no line has label 1 .*; relabel the identities with datasets/convert.py --relabel"):
        convert.main(["--source", str(source), "--output", str(tmp_path / "out")])


def test_a_list_gets_a_list_beside_it_with_the_same_paths(source, capsys):
    output = run(source, source / "closed.txt")
    assert output.read_text() == "".join(f"images/{number}.png\t{label}\n" for number, label in enumerate(NEW))
    assert (source / "old_labels.txt").read_text() == TABLE
    assert seen(output) == list(zip(NEW, CONTENTS, strict=True))
    assert capsys.readouterr().out == (
        f"{output}: 6 images of 4 identities; 3 have another label than before, listed in {source / 'old_labels.txt'}\n"
    )


@pytest.mark.parametrize(
    "output, table, options",
    [
        ("made", "made/old_labels.txt", []),
        ("made/train.rec", "made/old_labels.txt", []),
        ("made", "made/old_labels.txt", ["--layout=folder"]),
    ],
)
def test_a_data_set_is_written_in_any_layout_and_names_go_along(source, tmp_path, output, table, options):
    (source / "names.txt").write_text("0\tZoe\n7\tBo\n2000000000\tAnn\n")
    made = run(source, tmp_path / output, *options)
    expected = list(zip(NEW, CONTENTS, strict=True))
    assert seen(made) == (sorted(expected, key=lambda image: image[0]) if options else expected)
    assert (tmp_path / table).read_text() == TABLE
    assert (tmp_path / "made" / "names.txt").read_text() == "0\tZoe\n1\tBo\n3\tAnn\n"


def as_lst(source: Path) -> Path:
    rows = (f"{number}\t{label:f}\timages/{number}.png\n" for number, label in enumerate(OLD))
    (source / "some.lst").write_text("".join(rows))
    return source / "some.lst"


def as_csv(source: Path) -> Path:
    pytest.importorskip("pyarrow")
    (source / "some.csv").write_text("path,label\n" + "".join(f"images/{n}.png,{label}\n" for n, label in enumerate(OLD)))
    return source / "some.csv"


@pytest.mark.parametrize("write", [as_lst, as_csv])
def test_other_lists_are_relabelled_too(source, write):
    assert seen(run(write(source), source / "closed.txt")) == list(zip(NEW, CONTENTS, strict=True))


def test_a_rec_with_gaps_and_its_count_of_people_is_relabelled(source, tmp_path):
    old = [min(label, 99) for label in OLD]
    (tmp_path / "train.rec").write_bytes(b"".join(encode(*row) for row in zip(old, range(6), CONTENTS, strict=True)))
    (tmp_path / "property").write_text("4,112,112\n")
    assert seen(run(tmp_path / "train.rec", tmp_path / "made" / "train.rec")) == list(zip(NEW, CONTENTS, strict=True))
    assert (tmp_path / "made" / "property").read_text() == "4,112,112\n"
    assert (tmp_path / "made" / "old_labels.txt").read_text() == TABLE.replace("2000000000", "99")
    with pytest.raises(UserError, match="closed.txt: a list must lie beside the list whose paths it has"):
        run(tmp_path / "train.rec", tmp_path / "closed.txt")


def test_labels_without_a_gap_stay_as_they_are(source, capsys):
    (source / "label.txt").write_text("".join(f"images/{number}.png\t{label}\n" for number, label in enumerate(NEW)))
    assert run(source, source / "closed.txt").read_text() == (source / "label.txt").read_text()
    assert "4 identities; 0 have another label" in capsys.readouterr().out


def files(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def refusal(source: Path, output: Path, *more: str) -> str:
    before = files(source.parent)
    with pytest.raises(UserError) as refused:
        run(source, output, *more)
    assert files(source.parent) == before and "\n" not in str(refused.value)
    return str(refused.value)


def test_what_would_be_lost_or_wrong_is_refused(source, tmp_path):
    assert "elsewhere.txt: a list must lie beside the list" in refusal(source, tmp_path / "elsewhere.txt")
    assert "label.txt: exists already" in refusal(source, source / "label.txt")
    (source / "old_labels.txt").write_text("mine")
    assert "old_labels.txt: exists already" in refusal(source, source / "closed.txt")
    assert "old_labels.txt: exists already" in refusal(source, source / "train.rec")
    (source / "old_labels.txt").unlink()
    (source / "names.txt").write_text("7\tBo\n")
    assert "names.txt: has the names of the old labels" in refusal(source, source / "closed.txt")
    (source / "names.txt").unlink()
    (source / "label.txt").write_text("images/0.png\t5\nimages/1.png\t5\n")
    assert "closed.txt: would have 1 identity" in refusal(source, source / "closed.txt")
    (source / "label.txt").write_text("images/0.png\t5\nimages/1.png\tx\n")
    assert "line 2: 'images/1.png\tx' is not a path" in refusal(source, source / "closed.txt")


def test_a_path_that_no_list_can_hold_is_named(source):
    pytest.importorskip("pyarrow")
    (source / "some.csv").write_text(
        "path,label\n" + "".join(f"{json.dumps(path)},{label}\n" for path, label in [("images/0.png", 1), ("#1.png", 3)])
    )
    message = refusal(source / "some.csv", source / "closed.txt")
    assert "some.csv row 3: #1.png: such a path cannot stand in a label.txt; rename the file" in message
