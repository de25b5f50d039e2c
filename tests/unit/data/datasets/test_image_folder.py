"""A folder for each identity is a dataset, and what is no image in it is left out with a warning."""

import os
import re

import numpy as np
import pytest

from arcface.data.datasets.image_folder import ImageFolder
from arcface.errors import UserError


@pytest.fixture
def identities(tmp_path, make_data_set):
    """Three identities with 2, 1 and 3 images, in folders that do not sort by number; returns the directory and the images."""
    images = [path.read_bytes() for path in sorted((make_data_set(6, 2) / "images").iterdir())]
    paths = ["10/b.jpg", "10/a.PNG", "9/x y.jpeg", "anna/2.jpg", "anna/10.jpg", "anna/1.jpg"]
    for path, image in zip(paths, images, strict=True):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(image)
    return tmp_path, {str(tmp_path / path): image for path, image in zip(paths, images)}


def test_identities_and_images_are_in_the_order_of_their_names(identities):
    directory, images = identities
    dataset = ImageFolder(directory)
    assert dataset.labels.dtype == np.int64 and dataset.labels.tolist() == [0, 0, 1, 2, 2, 2]
    assert len(dataset) == 6 and dataset.num_classes == 3 and dataset.file == directory
    names = ["10/a.PNG", "10/b.jpg", "9/x y.jpeg", "anna/1.jpg", "anna/10.jpg", "anna/2.jpg"]
    assert [dataset.name(index) for index in range(6)] == [str(directory / name) for name in names]
    assert [dataset.encoded(index) for index in range(6)] == [images[dataset.name(index)] for index in range(6)]
    dataset.scan(6)


def test_a_identity_may_have_many_images_with_long_names(tmp_path):
    names = [f"{identity}/{'x' * 200}{number:03d}.jpg" for identity in range(2) for number in range(300)]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    dataset = ImageFolder(tmp_path)
    assert [dataset.name(index) for index in range(600)] == [str(tmp_path / name) for name in names]


def test_hidden_files_and_files_beside_the_folders_are_ignored(identities, caplog):
    directory, _ = identities
    (directory / ".cache").mkdir()
    (directory / ".cache" / "a.jpg").touch()
    (directory / "anna" / ".DS_Store").touch()
    (directory / "lfw.bin").touch()
    dataset = ImageFolder(directory)
    dataset.scan(6)
    assert len(dataset) == 6 and not caplog.records


def test_what_is_no_image_is_left_out_with_one_warning(identities, caplog):
    directory, _ = identities
    (directory / "10" / "notes.txt").touch()
    (directory / "9" / "more").mkdir()
    (directory / "empty").mkdir()
    dataset = ImageFolder(directory)
    assert dataset.labels.tolist() == [0, 0, 1, 2, 2, 2]
    assert not caplog.records  # every rank opens the dataset, one scans it
    dataset.scan(0)
    (record,) = caplog.records
    assert record.getMessage() == f"{directory}: left out 3 files and folders without an image, such as {directory}/10/notes.txt"


@pytest.mark.parametrize("entry", ["x.jpg", ".hidden/a.jpg"])
def test_a_directory_without_folders_of_images_is_refused(tmp_path, entry):
    (tmp_path / entry).parent.mkdir(exist_ok=True)
    (tmp_path / entry).touch()
    with pytest.raises(UserError, match="contains no folders of images; pass a directory with a folder for each identity"):
        ImageFolder(tmp_path)


def test_one_identity_is_refused_and_num_classes_can_be_more(identities):
    directory, _ = identities
    assert ImageFolder(directory, num_classes=5).num_classes == 5
    with pytest.raises(UserError, match="anna/1.jpg: label 2 is not below --num_classes 2"):
        ImageFolder(directory, num_classes=2)
    for path in (*(directory / "anna").iterdir(), directory / "9" / "x y.jpeg"):
        path.unlink()
    with pytest.raises(UserError, match="all images are of one identity"):
        ImageFolder(directory)


def test_a_file_that_goes_away_or_is_no_image_is_named(identities):
    directory, _ = identities
    dataset = ImageFolder(directory)
    (directory / "anna" / "10.jpg").write_bytes(b"text")
    with pytest.raises(UserError, match="anna/10.jpg: not an image"):
        dataset.scan(6)
    (directory / "anna" / "10.jpg").unlink()
    with pytest.raises(UserError, match="anna/10.jpg: No such file or directory; restore the file"):
        dataset.encoded(4)


def test_a_directory_that_cannot_be_listed_is_named(tmp_path):
    with pytest.raises(UserError, match=f"{re.escape(str(tmp_path))}/no: cannot be listed .No such file"):
        ImageFolder(tmp_path / "no")


def test_names_need_not_be_text(identities):
    directory, images = identities
    os.rename(os.fsencode(directory / "10"), os.fsencode(directory) + b"/\xff\xfe")
    assert ImageFolder(directory).name(4).endswith("\udcff\udcfe/a.PNG")
    assert ImageFolder(directory).encoded(4) == images[str(directory / "10/a.PNG")]
