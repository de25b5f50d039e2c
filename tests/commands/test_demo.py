"""The promises of datasets/demo.py, the drawn dataset for a first training."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from arcface import demo as command
from arcface.data import drawn_faces
from arcface.data import synthetic as demo

SCRIPT = Path(__file__).resolve().parents[2] / "datasets" / "demo.py"
SMALL = {"identities": 12, "images_per_identity": 5, "pairs": 40}


def run(output, **options):
    """Run the script as a user does, from a folder that is not the repository."""
    flags = [f"--{name}={value}" for name, value in {**SMALL, **options}.items()]
    return subprocess.run(
        [sys.executable, SCRIPT, f"--output={output}", *flags],
        capture_output=True,
        text=True,
        cwd=output.parent,
        timeout=240,
    )


def contents(folder):
    """{relative path: (bytes, time of the last change)} of every file below `folder`."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def only_bytes(folder):
    return {name: data for name, (data, _) in contents(folder).items()}


def decode(jpeg):
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_UNCHANGED)


def assert_one_line_and_exit_2(result, *words):
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stdout == ""
    for word in words:
        assert word in result.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small dataset that the script wrote. Tests only read it."""
    output = tmp_path_factory.mktemp("made") / "demo"
    result = run(output)
    assert result.returncode == 0, result.stderr
    return output


@pytest.fixture(scope="module")
def labels(made):
    """[(name, label)] of label.txt."""
    lines = (made / "label.txt").read_text().splitlines()
    return [(name, int(label)) for name, label in (line.split("\t") for line in lines)]


@pytest.fixture(scope="module")
def verification(made):
    with open(made / "demo.bin", "rb") as file:
        return pickle.load(file)


def test_same_arguments_give_same_bytes_whatever_the_number_of_processes(made, tmp_path):
    assert run(tmp_path / "again", num_workers=2).returncode == 0
    assert only_bytes(tmp_path / "again") == only_bytes(made)


def test_another_seed_draws_other_people(made, tmp_path):
    assert run(tmp_path / "other", seed=1).returncode == 0
    ours, other = only_bytes(made), only_bytes(tmp_path / "other")
    assert ours.keys() == other.keys()
    assert not set(other.values()) & {data for name, data in ours.items() if name != "label.txt"}


def test_more_images_keep_the_earlier_ones():
    few, many = (demo.draw_identity((0, demo.TRAINING, 3, images)) for images in (2, 4))
    assert many[:2] == few
    assert len(set(many)) == 4


def test_no_two_random_streams_meet(monkeypatch):
    first, generator = [], demo.generator
    for module in (demo, drawn_faces):
        monkeypatch.setattr(module, "generator", lambda *key: first.append(generator(*key).random()) or generator(*key))
    for group in (demo.TRAINING, demo.HELD_OUT):
        for person in range(3):
            demo.draw_identity((0, group, person, 3))
    demo.choose_pairs(0, 2, 20)
    assert len(set(first)) == len(first) == 2 * 3 * (1 + 3) + 1


def test_label_file_names_every_image_with_labels_without_gaps(made, labels):
    people, images = SMALL["identities"], SMALL["images_per_identity"]
    assert [name for name, _ in labels] == [f"images/{i:08d}.jpg" for i in range(people * images)]
    assert [label for _, label in labels] == [person for person in range(people) for _ in range(images)]
    assert {f"images/{path.name}" for path in (made / "images").iterdir()} == {name for name, _ in labels}
    assert {path.name for path in made.iterdir()} == {"images", "label.txt", "demo.bin", "demo.json"}


def test_every_image_is_a_jpeg_of_112_by_112_in_colour(made, labels, verification):
    for jpeg in [(made / name).read_bytes() for name, _ in labels] + verification[0]:
        assert jpeg[:2] == b"\xff\xd8"
        assert decode(jpeg).shape == (112, 112, 3)


def test_skin_is_redder_than_blue_in_the_files(made, labels):
    """A swap of RGB and BGR would draw blue people."""
    centres = [decode((made / name).read_bytes())[40:80, 36:76].mean(axis=(0, 1)) for name, _ in labels]
    blue, _, red = np.mean(centres, axis=0)
    assert red > 1.2 * blue


def test_verification_set_has_the_asked_pairs_half_of_them_same_in_every_fold(verification):
    jpegs, issame = verification
    assert type(jpegs) is list and {type(jpeg) for jpeg in jpegs} == {bytes}
    assert type(issame) is list and {type(same) for same in issame} == {bool}
    assert len(jpegs) == 2 * SMALL["pairs"] and len(issame) == SMALL["pairs"]
    assert [fold.mean() for fold in np.split(np.array(issame), 10)] == [0.5] * 10


def test_issame_tells_whether_a_pair_shows_one_person_and_no_pair_occurs_twice(verification):
    jpegs, issame = verification
    people = SMALL["pairs"] // demo.PAIRS_PER_IDENTITY
    person_of = {
        jpeg: person
        for person in range(people)
        for jpeg in demo.draw_identity((0, demo.HELD_OUT, person, demo.IMAGES_PER_HELD_OUT))
    }
    assert set(jpegs) <= set(person_of)
    pairs = list(zip(jpegs[::2], jpegs[1::2]))
    assert [person_of[left] == person_of[right] for left, right in pairs] == issame
    assert len({frozenset(pair) for pair in pairs}) == len(pairs)
    assert min(len(set(pair)) for pair in pairs) == 2  # no image is paired with itself
    assert set(person_of[jpeg] for jpeg in jpegs) == set(range(people))


def test_no_held_out_person_is_in_the_training_images(made, labels, verification):
    assert not {(made / name).read_bytes() for name, _ in labels} & set(verification[0])
    looks = [
        drawn_faces.random_identity(demo.generator(0, group, person, 0))
        for group in (demo.TRAINING, demo.HELD_OUT)
        for person in range(200)
    ]
    assert len({(look.width, look.height, look.skin) for look in looks}) == 400


def test_smallest_sets_are_possible(tmp_path):
    assert run(tmp_path / "least", identities=2, images_per_identity=1, pairs=20).returncode == 0
    lines = (tmp_path / "least" / "label.txt").read_bytes()
    assert lines == b"images/00000000.jpg\t0\nimages/00000001.jpg\t1\n"
    assert len(demo.choose_pairs(0, 60, 600)) == 600


def likeness(images, people):
    """How often two images of one person are more alike than two of different people: 0.5 is chance.

    Alike in 16x16 grey pixels; a network has to learn something better.
    """
    grey = [cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in images]
    small = [cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA).ravel() for image in grey]
    cosines = np.corrcoef(np.array(small, dtype=np.float64))
    upper = np.triu_indices(len(people), 1)
    same = (people[:, None] == people)[upper]
    return np.mean(cosines[upper][same][:, None] > cosines[upper][~same])


def test_images_of_one_person_are_more_alike_than_images_of_others_yet_not_trivially(made, labels):
    images = [decode((made / name).read_bytes()) for name, _ in labels]
    people = np.array([label for _, label in labels])
    assert 0.6 < likeness(images, people) < 0.85
    assert 0.4 < likeness(images, np.random.default_rng(0).permutation(people)) < 0.6


def test_existing_data_set_with_the_same_arguments_is_left_alone(tmp_path):
    output = tmp_path / "demo"
    assert run(output).returncode == 0
    before = contents(output)
    again = run(output, num_workers=2)
    assert again.returncode == 0
    assert len(again.stdout.splitlines()) == 1 and "already" in again.stdout
    assert contents(output) == before


@pytest.mark.parametrize("kind", ["other arguments", "foreign folder", "file", "broken link"])
def test_existing_output_is_never_overwritten(kind, tmp_path):
    output = tmp_path / "demo"
    if kind == "other arguments":
        assert run(output, pairs=20, identities=2).returncode == 0
    elif kind == "foreign folder":
        output.mkdir()
        (output / "thesis.txt").write_text("three years")
    elif kind == "file":
        output.write_text("three years")
    else:
        output.symlink_to(tmp_path / "nowhere")
    before, names = contents(tmp_path), sorted(os.listdir(tmp_path))
    assert_one_line_and_exit_2(run(output), str(output), "--output")
    assert contents(tmp_path) == before and sorted(os.listdir(tmp_path)) == names


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "demo").mkdir()
    assert run(tmp_path / "demo", identities=2, pairs=20).returncode == 0
    assert os.listdir(tmp_path) == ["demo"] and (tmp_path / "demo" / "demo.bin").is_file()


@pytest.mark.parametrize(
    "name, value",
    [
        ("identities", 1),
        ("images_per_identity", 0),
        ("pairs", 0),
        ("pairs", 30),
        ("seed", -1),
        ("num_workers", 0),
        ("identities", "many"),
        ("pear", 5),
    ],
)
def test_bad_argument_is_one_line_and_writes_nothing(name, value, tmp_path, refused):
    assert f"--{name}" in refused(lambda: command.main([f"--output={tmp_path / 'demo'}", f"--{name}={value}"]))
    assert os.listdir(tmp_path) == []


def test_unwritable_output_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    command = [sys.executable, SCRIPT, f"--output={tmp_path / 'file' / 'demo'}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert_one_line_and_exit_2(result, str(tmp_path))


def test_a_run_that_breaks_leaves_nothing_behind(tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("power cut")

    # Not later: real workers would be forks of this process, where other tests may have started threads.
    monkeypatch.setattr(demo.multiprocessing, "Pool", broken)
    with pytest.raises(RuntimeError, match="power cut"):
        command.main([f"--output={tmp_path / 'demo'}", "--identities=2", "--pairs=20"])
    assert os.listdir(tmp_path) == []
