"""Any layout is opened by its path alone, and the same images in every layout make the same batches."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from image_lists import write_records

from arcface.data.datasets.base import open_dataset
from arcface.data.datasets.image_folder import ImageFolder
from arcface.data.datasets.label_list import LabelFile
from arcface.data.datasets.record_file import RecordFile
from arcface.data.loader import Loader
from arcface.errors import UserError
from arcface.io.images import batch_channels_first

LABELS = [0, 0, 0, 1, 2, 2, 2, 2, 3, 3]


@pytest.fixture(scope="module")
def layouts(tmp_path_factory, make_data_set) -> dict[str, tuple[Path, type]]:
    """The same ten images in each layout: what to open and what it is."""
    images = [path.read_bytes() for path in sorted((make_data_set(10, 2) / "images").iterdir())]
    root = tmp_path_factory.mktemp("layouts")
    for index, (label, image) in enumerate(zip(LABELS, images)):
        (root / "people" / f"{label:02d}").mkdir(parents=True, exist_ok=True)
        (root / "people" / f"{label:02d}" / f"{index}.jpg").write_bytes(image)
    rows = [(f"people/{label:02d}/{index}.jpg", label) for index, label in enumerate(LABELS)]
    (root / "label.txt").write_text("".join(f"{path}\t{label}\n" for path, label in rows))
    (root / "list.txt").write_text("".join(f"{path} {label}\n" for path, label in rows))
    (root / "record").mkdir()
    write_records(root / "record" / "train.rec", zip(LABELS, images))
    for suffix in (".rec", ".idx"):
        shutil.copy(root / "record" / f"train{suffix}", root / f"other{suffix}")
    return {
        "directory with label.txt": (root, LabelFile),
        "list": (root / "list.txt", LabelFile),
        "people": (root / "people", ImageFolder),
        "directory with train.rec": (root / "record", RecordFile),
        "record file": (root / "other.rec", RecordFile),
    }


def test_every_layout_is_opened_and_gives_the_same_batches(layouts):
    expected = [Loader(open_dataset(layouts["list"][0]), 4, 1, 0, 1)[step] for step in range(5)]
    for name, (path, kind) in layouts.items():
        for given in (path, str(path)):
            dataset = open_dataset(given)
            assert type(dataset) is kind, name
            assert dataset.labels.dtype == np.int64 and dataset.labels.tolist() == LABELS and dataset.num_classes == 4
            assert len(dataset) == 10 and dataset.file.exists() and str(path.parent) in dataset.name(9)
            assert [len(indices) for indices in dataset.repeated()] == [0, 0]
            dataset.scan(10)
            batches = Loader(dataset, 4, 1, 0, 1)
            for step, (images, labels) in enumerate(expected):
                assert np.array_equal(batches[step][0], images) and np.array_equal(batches[step][1], labels), name


def test_a_table_is_opened_by_its_suffix(layouts, tmp_path):
    pytest.importorskip("pyarrow")
    root = layouts["directory with label.txt"][0]
    rows = "".join(line.replace("\t", ",") for line in (root / "label.txt").read_text().splitlines(keepends=True))
    (root / "list.csv").write_text("path,label\n" + rows)
    for arguments in ((root / "list.csv",), (root, "list.csv")):
        dataset = open_dataset(*arguments)
        assert dataset.labels.tolist() == LABELS and dataset.encoded(3) == open_dataset(root).encoded(3)
    listed, tabled = (Loader(dataset, 4, 1, 0, 1) for dataset in (open_dataset(root), dataset))
    with tabled.workers(1) as processes:
        for step, (images, labels, _) in enumerate(tabled.batches(0, 3, processes, batch_channels_first)):
            assert (images == listed[step][0]).all() and (labels == listed[step][1]).all()


def test_a_label_file_goes_before_other_layouts_and_one_that_is_asked_for_is_not_replaced(layouts, tmp_path):
    shutil.copytree(layouts["directory with label.txt"][0], tmp_path / "all")
    shutil.copy(layouts["record file"][0], tmp_path / "all" / "train.rec")
    assert type(open_dataset(tmp_path / "all")) is LabelFile
    (tmp_path / "all" / "label.txt").unlink()
    assert type(open_dataset(tmp_path / "all")) is RecordFile
    assert type(open_dataset(tmp_path / "all", "list.txt")) is LabelFile
    with pytest.raises(UserError, match="all/other.txt: No such file"):
        open_dataset(tmp_path / "all", "other.txt")
    (tmp_path / "all" / "label.txt").symlink_to("nothing.txt")
    with pytest.raises(UserError, match="all/label.txt: No such file"):
        open_dataset(tmp_path / "all")


def test_half_of_a_dataset_is_not_taken_for_folders_of_identities(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "00000000.jpg").touch()
    with pytest.raises(UserError, match="label.txt: No such file or directory; pass the dataset with --data_dir"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    "name, complaint",
    [
        ("no.rec", "no.rec: cannot be read .No such file"),
        ("no.txt", "no.txt: No such file"),
        ("no", "no/label.txt: No such file"),
        ("x" * 300, "File name too long"),
        ("file.bin", "file.bin/label.txt: Not a directory"),
    ],
)
def test_what_is_not_there_is_named(tmp_path, name, complaint):
    (tmp_path / "file.bin").touch()
    with pytest.raises(UserError, match=complaint):
        open_dataset(tmp_path / name)


def test_options_reach_every_layout(layouts):
    for path, _ in layouts.values():
        assert open_dataset(path, num_classes=9).num_classes == 9
        with pytest.raises(UserError, match="label 3 is not below --num_classes 3"):
            open_dataset(path, num_classes=3)
    root = layouts["list"][0].parent
    (root / "outside.txt").write_text("../a.jpg 0\nb.jpg 1\n")
    with pytest.raises(UserError, match="line 1: ../a.jpg: leads out of --data_dir"):
        open_dataset(root / "outside.txt")
    assert len(open_dataset(root / "outside.txt", outside_paths=True)) == 2
