"""A .lst is read as a dataset, whether MXNet's or InsightFace's; which it is, its first line says."""

import numpy as np
import pytest

from arcface.data.datasets import label_list
from arcface.data.datasets.base import open_dataset
from arcface.data.datasets.label_list import LabelFile
from arcface.data.datasets.list_forms import InsightFaceList, MxnetList, lst_form
from arcface.errors import UserError
from arcface.io import text

PATHS = ["a/0001.jpg", "a b/2.jpg", "0003.png", "4", "é/5 6 .jpg"]
LABELS = [0, 1, 1, 2, 0]


def mxnet(number: int, path: str, label: int) -> str:
    """As im2rec.py writes it, with labels as '%f', in a shuffled order of indices."""
    return f"{99 - number}\t{label:f}\t{path}"


def mxnet_integers(number: int, path: str, label: int) -> str:
    return f"{number}\t{label}\t{path}"


def mxnet_one_place(number: int, path: str, label: int) -> str:
    return f"{number}\t{label}.0\t{path}"


def insightface(number: int, path: str, label: int) -> str:
    return f"1\t{path}\t{label}"


def insightface_with_landmarks(number: int, path: str, label: int) -> str:
    return f"1\t{path}\t{label}\t" + "\t".join(map(str, range(4 if number % 2 else 14)))


FORMS = [mxnet, mxnet_integers, mxnet_one_place, insightface, insightface_with_landmarks]


def listed(directory, *rows: str, name="train.lst", line_end="\n") -> LabelFile:
    (directory / name).write_bytes("".join(row + line_end for row in rows).encode())
    return open_dataset(directory / name)


def paths_of(dataset: LabelFile) -> list[str]:
    return [dataset.name(index).split(": ", 1)[1] for index in range(len(dataset))]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("form", FORMS)
def test_both_forms_are_read_alike(tmp_path, form, line_end):
    rows = [form(number, path, label) for number, (path, label) in enumerate(zip(PATHS, LABELS, strict=True))]
    dataset = listed(tmp_path, "# a comment", rows[0], "", *rows[1:], line_end=line_end)
    assert dataset.labels.dtype == np.int64 and dataset.labels.tolist() == LABELS and dataset.num_classes == 3
    assert paths_of(dataset) == PATHS and [path.decode() for path in dataset._paths()] == PATHS
    assert dataset.place(1) == f"{tmp_path}/train.lst line 4"


@pytest.mark.parametrize("form", FORMS)
def test_long_lists_are_read_as_a_loop_over_their_lines_reads_them(tmp_path, monkeypatch, form):
    monkeypatch.setattr(text, "_BLOCK", 500)
    monkeypatch.setattr(label_list, "_LINES_AT_ONCE", 7)
    rng = np.random.default_rng(0)
    paths = [f"{'d e' if odd else 'de'}/{number}.jpg" for number, odd in enumerate(rng.random(400) < 0.1)]
    labels = [*range(120), *rng.integers(0, 120, 280).tolist()]
    dataset = listed(tmp_path, *(form(number, path, label) for number, (path, label) in enumerate(zip(paths, labels, strict=True))))
    assert dataset.labels.tolist() == labels and [path.decode() for path in dataset._paths()] == paths
    assert paths_of(dataset) == paths


@pytest.mark.parametrize("form", FORMS)
def test_the_images_are_those_that_the_paths_name(tmp_path, make_data_set, form):
    directory = make_data_set(4, 2)
    rows = [form(number, f"images/{number:08d}.jpg", number % 2) for number in range(4)]
    dataset, expected = listed(directory, *rows), open_dataset(directory)
    dataset.scan(4)
    assert [dataset.encoded(index) for index in range(4)] == [expected.encoded(index) for index in range(4)]
    assert type(open_dataset(directory, "train.lst")) is LabelFile  # by --label_file
    (directory / "label.txt").rename(tmp_path / "label.txt")
    assert open_dataset(directory).file.name == "train.lst"  # by the directory alone


@pytest.mark.parametrize(
    "line, form",
    [
        (b"0\t3.000000\ta.jpg", MxnetList),
        (b"1\t0\ta.jpg", MxnetList),
        (b"1\t1\tb c/1.jpg", MxnetList),
        (b"5\t1\t2\ta.jpg", MxnetList),
        (b"1\ta.jpg\t0", InsightFaceList),
        (b"0\ta.jpg\t0", InsightFaceList),
        (b"1\tb c/1.jpg\t7\t1\t2\t3\t4", InsightFaceList),
    ],
)
def test_which_form_it_is_is_seen_from_where_the_path_is(line, form):
    assert type(lst_form(line, "list line 1")) is form


@pytest.mark.parametrize("line", [b"1\t2\t3", b"a.jpg\t0", b"a.jpg\tb.jpg\t0", b"0 1 a.jpg", b"1\ta.jpg\tb.jpg", b"x"])
def test_a_list_of_neither_form_is_refused_with_both(tmp_path, line):
    with pytest.raises(UserError, match=r"train.lst line 1: '.*' is neither MXNet's '0<TAB>.*' nor InsightFace's '1<TAB>"):
        listed(tmp_path, line.decode())
    with pytest.raises(UserError, match="train.lst: lists no images; each line is MXNet's .* or InsightFace's"):
        listed(tmp_path, "# nothing")


@pytest.mark.parametrize(
    "rows, complaint",
    [
        (("0\t0\ta.jpg", "1\tb.jpg\t1"), "line 2: '1\tb.jpg\t1' is not an index, a tab, a label, a tab and a path, as the first"),
        (("0\t0\ta.jpg", "1\t1 b.jpg"), "line 2: '1\t1 b.jpg' is not an index"),
        (("0\t0\ta.jpg", "1\t1"), "line 2: '1\t1' is not an index"),
        (("0\t0\ta.jpg", "1\t1.5\tb.jpg"), "line 2: '1\t1.5\tb.jpg' has a label that is not a class number"),
        (("0\t0\ta.jpg", "1\t-1\tb.jpg"), "line 2: '1\t-1\tb.jpg' has a label that is not a class number"),
        (("0\t0\ta.jpg", "1\t1\t2\tb.jpg"), "line 2: '1\t1\t2\tb.jpg' has 2 labels, where one is needed"),
        (("0\t0\ta.jpg", "1\t2\tb.jpg"), "line 2: labels must count up from 0 without a gap"),
        (("1\ta.jpg\t0", "2\tb.jpg\t1"), "line 2: '2\tb.jpg\t1' is not 1, a tab, a path, a tab and a label, as the first line"),
        (("1\ta.jpg\t0", "1\tb.jpg\tx"), "line 2: '1\tb.jpg\tx' is not 1, a tab"),
        (("1\ta.jpg\t0", "1\t\t1"), "line 2: '1\t\t1' is not 1, a tab"),
        (
            ("1\ta.jpg\t0", "0\tb.jpg\t1"),
            "line 2: '0\tb.jpg\t1' is of an image that is not aligned; align it with datasets/align.py",
        ),
        (("1\ta.jpg\t0", "1\t/b.jpg\t1"), "line 2: /b.jpg: leads out of --data_dir"),
        (("0\t0\ta.jpg", "0\t1\ta/../../b.jpg"), "line 2: a/../../b.jpg: leads out of --data_dir"),
        (("0\t0\ta.jpg", f"1\t1\t{'x' * 4096}"), "has a path of more than 4095 bytes"),
        (("0\t0\ta.jpg", f"1\t1\t{'x ' * 2048}x"), "has a path of more than 4095 bytes"),
        (("1\ta.jpg\t0", f"1\t{'x' * 4096}\t1"), "has a path of more than 4095 bytes"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, rows, complaint):
    with pytest.raises(UserError) as refused:
        listed(tmp_path, *rows)
    assert complaint in str(refused.value)


def test_a_list_that_is_changed_is_noticed(tmp_path):
    dataset = listed(tmp_path, "0\t0\ta.jpg", "1\t1\tb.jpg")
    (tmp_path / "train.lst").write_text("0\t1\ta.jpg\n1\t1\tb.jpg\n")
    with pytest.raises(UserError, match="line 1: the list was changed"):
        dataset.encoded(0)
