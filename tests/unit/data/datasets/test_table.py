"""CSV and Parquet lists are read where pyarrow is installed, and every mistake in them is named with file and row."""

import sys

import numpy as np
import pytest

from arcface.data.datasets.table import TableFile
from arcface.errors import UserError

pyarrow = pytest.importorskip("pyarrow")


def csv(tmp_path, content: bytes, **options) -> TableFile:
    (tmp_path / "list.csv").write_bytes(content)
    return TableFile(tmp_path, "list.csv", **options)


def parquet(tmp_path, columns: dict, **options) -> TableFile:
    from pyarrow.parquet import write_table

    write_table(pyarrow.table(columns), tmp_path / "list.parquet", row_group_size=2)
    return TableFile(tmp_path, "list.parquet", **options)


@pytest.mark.parametrize(
    "content",
    [
        b'path,label\na.jpg,0\n"b, c.jpg",1\n\xff.jpg,1\n',
        b'label,age,path\r\n0,7,a.jpg\r\n1,,"b, c.jpg"\r\n1,x,\xff.jpg\r\n',
    ],
)
def test_a_csv_file_may_have_other_columns_and_quotes(tmp_path, content):
    dataset = csv(tmp_path, content)
    assert dataset.labels.dtype == np.int64 and dataset.labels.tolist() == [0, 1, 1]
    assert len(dataset) == 3 and dataset.num_classes == 2
    names = [dataset.name(row).removeprefix(f"{tmp_path}/list.csv row ") for row in range(3)]
    assert names == ["2: a.jpg", "3: b, c.jpg", "4: \udcff.jpg"]


@pytest.mark.parametrize("type_name", ["int64", "int32", "uint8"])
def test_a_parquet_file_may_hold_any_whole_numbers(tmp_path, type_name):
    labels = pyarrow.array([0, 1, 0, 1, 2], type_name)
    dataset = parquet(tmp_path, {"x": [1.5] * 5, "label": labels, "path": [f"{row}.jpg" for row in range(5)]})
    assert dataset.labels.dtype == np.int64 and dataset.labels.tolist() == [0, 1, 0, 1, 2]
    names = [dataset.name(row).removeprefix(f"{tmp_path}/list.parquet row ") for row in (0, 4)]
    assert names == ["1: 0.jpg", "5: 4.jpg"]


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"", "list.csv: no table of columns path and label .Empty CSV file.; correct the file"),
        (b"path,label\n", "list.csv: lists no images"),
        (b"path,person\na,0\n", "list.csv: no table of columns path and label .*'label'"),
        (b"path,label\na.jpg,0\nb.jpg,x\n", "list.csv: no table .*Row #3: .* invalid value 'x'"),
        (b"path,label\na.jpg,0\nb.jpg\n", "list.csv: no table .*Row #3: Expected 2 columns, got 1"),
        (b"path,label\na.jpg,0\nb.jpg,\n", "list.csv row 3: has no path or no label"),
        (b"path,label\na.jpg,0\nb.jpg,-1\n", "list.csv row 3: label -1 is no class number from 0 up"),
        (b"path,label\na.jpg,0\nb.jpg,2147483648\n", "list.csv row 3: label 2147483648 is no class number"),
        (b"path,label\na.jpg,0\nb.jpg,2\n", "list.csv row 3: labels must count up from 0 without a gap, but no row has label 1"),
        (b"path,label\na.jpg,0\nb.jpg,0\n", "list.csv: all images are of one identity"),
        (b"path,label\na.jpg,0\n../b.jpg,1\n", "list.csv row 3: ../b.jpg: leads out of --data_dir"),
        (b"path,label\n/a.jpg,0\nb.jpg,1\n", "list.csv row 2: /a.jpg: leads out of --data_dir"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path, content, complaint):
    with pytest.raises(UserError, match=complaint):
        csv(tmp_path, content)


def test_a_damaged_or_incomplete_parquet_file_is_refused(tmp_path):
    parquet(tmp_path, {"path": ["a", "b"], "label": [0, 1]})
    content = (tmp_path / "list.parquet").read_bytes()
    for damaged in (b"", content[:-9], content[:20], b"x" * 99):
        (tmp_path / "list.parquet").write_bytes(damaged)
        with pytest.raises(UserError, match="list.parquet: no table of columns path and label"):
            TableFile(tmp_path, "list.parquet")
    with pytest.raises(UserError, match="list.parquet: no table .*label"):
        parquet(tmp_path, {"path": ["a", "b"]})
    with pytest.raises(UserError, match="list.parquet: no table .*truncated"):
        parquet(tmp_path, {"path": ["a", "b"], "label": [0, 0.5]})
    with pytest.raises(UserError, match="list.parquet row 2: has no path or no label"):
        parquet(tmp_path, {"path": ["a", None], "label": [0, 1]})
    with pytest.raises(UserError, match="no.parquet: no table"):
        TableFile(tmp_path, "no.parquet")


def test_paths_may_lead_out_when_allowed(tmp_path):
    assert csv(tmp_path, b"path,label\n../a.jpg,0\n/b..jpg,1\n", outside_paths=True).num_classes == 2
    assert csv(tmp_path, b"path,label\nx/../a.jpg,0\nb..jpg,1\n").num_classes == 2


def test_files_of_a_table_are_looked_for_and_repeats_told(make_data_set, caplog):
    directory = make_data_set(3, 2)
    rows = b"path,label\n" + b"".join(b"images/%08d.jpg,%d\n" % (row, row % 2) for row in range(3))
    dataset = csv(directory, rows)
    dataset.scan(3)
    assert dataset.encoded(2) == (directory / "images" / "00000002.jpg").read_bytes()
    csv(directory, rows + b"images/00000000.jpg,0\n").scan(0)
    assert [record.getMessage() for record in caplog.records] == [
        f"{directory}/list.csv: 1 rows repeat an earlier row; such an image counts as often as it is listed"
    ]
    with pytest.raises(UserError, match="list.csv rows 2 and 5: images/00000000.jpg has label 0 and label 1; remove the wrong row"):
        csv(directory, rows + b"images/00000000.jpg,1\n").scan(0)
    with pytest.raises(UserError, match="list.csv row 5: images/3.jpg: no such file; restore it or remove the row"):
        csv(directory, rows + b"images/3.jpg,1\n").scan(0)


def test_without_pyarrow_the_user_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="list.csv: pyarrow reads it, which is not installed; pip install pyarrow, or"):
        csv(tmp_path, b"path,label\na,0\nb,1\n")
