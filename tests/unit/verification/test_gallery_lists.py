"""The gallery and probe lists of a 1:N identification are read, and each mistake in them is named."""

import numpy as np
import pytest
from protocol_files import refusal, write

from arcface.verification.gallery_lists import read_search_lists
from arcface.verification.ijb import read_protocol
from arcface.verification.templates import identify

HEADER = "TEMPLATE_ID,SUBJECT_ID,FILENAME,SIGHTING_ID\n"
GALLERY_1, GALLERY_2 = "10,1,img/1.png,1\n10,1,img/2.png,1\n20,2,img/3.png,2\n", "30,3,img/5.png,3\n"
PROBES = "50,1,img/6.png,4\n40,3,img/7.png,4\n50,1,frames/6.png,5\n60,2,img/8.png,6\n"
KNOWN = np.array([10, 20, 30, 40, 50, 60])
FEATURES = [[1, 0], [0, 1], [0.6, 0.8], [0.8, 0.6], [0.96, 0.28], [0.28, 0.96]]  # of KNOWN, L2-normalised


def write_lists(directory, probes=PROBES, **galleries):
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in {"probe_mixed": probes, **(galleries or {"gallery_G1": GALLERY_1, "gallery_G2": GALLERY_2})}.items():
        if content is not None:
            (directory / f"ijbx_1N_{name}.csv").write_text(HEADER + content)
    return directory


@pytest.mark.parametrize("old, new", [("", ""), ("\n", "\r\n"), (HEADER, "")], ids=["plain", "windows", "no header"])
def test_templates_and_their_subjects_are_read_once_each(tmp_path, old, new):
    for file in write_lists(tmp_path).iterdir():
        file.write_text(file.read_text().replace(old, new), newline="")
    lists = read_search_lists(tmp_path, "ijbx", KNOWN)
    assert [one.tolist() for one in lists.probes] == [[40, 50, 60], [3, 1, 2]]
    assert [[one.tolist() for one in gallery] for gallery in lists.galleries] == [[[10, 20], [1, 2]], [[30], [3]]]


def test_two_galleries_give_the_figures_worked_out_by_hand(tmp_path):
    found = identify(read_search_lists(write_lists(tmp_path), "ijbx", KNOWN), KNOWN, np.float32(FEATURES))
    # Probe 40 is of subject 3, 50 of 1, 60 of 2. In gallery 1: 50 is nearest to 10, its mate, at 0.96, and 60 to 20, its mate, at
    # 0.96; 40, without a mate there, is nearest to 10, at 0.8. In gallery 2, all of template 30: 40 is its mate, at 0.96.
    assert found.rates == {1: 1.0, 5: 1.0}
    assert list(found.summary()) == [(0.1, None, ""), (0.01, None, "")]  # one probe without a mate, and two


def test_a_protocol_without_such_lists_has_no_identification_and_one_with_them_has(tmp_path):
    directory = write(tmp_path)
    assert read_protocol(directory).searches is None
    write_lists(directory / "meta", "40,2,x,1\n", gallery_S1="10,2,x,1\n20,5,x,1\n", gallery_S2="30,2,x,1\n")
    protocol = read_protocol(directory)
    assert [gallery.templates.tolist() for gallery in protocol.searches.galleries] == [[10, 20], [30]]
    assert protocol.kind == f"{directory} is an IJB-style protocol: 7 images, 6 pairs of templates, 2 galleries"


@pytest.mark.parametrize(
    "lists, complaint",
    [
        ({"probes": None, "gallery_G1": GALLERY_1}, "ijbx_1N_probe_mixed.csv: No such file"),
        ({"gallery_G1": None}, "ijbx_1N_gallery_*.csv: no such file, but ijbx_1N_probe_mixed.csv exists; restore"),
        (
            {"gallery_G1": "10\n"},
            "G1.csv line 2: '10' does not begin with a template number, a comma and a subject number",
        ),
        ({"gallery_G1": "10,1\nten,1\n"}, "G1.csv line 3: 'ten,1' does not begin with"),
        ({"gallery_G1": "10,1\n20,2\n10,2\n"}, "G1.csv line 4: '10,2' is of template 10, which has subject 1 above; correct"),
        ({"gallery_G1": "10,1\n\n99,1\n"}, "G1.csv line 4: no image belongs to template 99; correct or remove the line"),
        ({"gallery_G1": ""}, "G1.csv: lists no templates"),
        ({"gallery_G1": "10,4\n20,5\n"}, "G1.csv: no probe in ijbx_1N_probe_mixed.csv shows a subject of this gallery; restore"),
    ],
)
def test_a_mistake_in_the_lists_is_named(tmp_path, lists, complaint):
    assert complaint in refusal(read_search_lists, write_lists(tmp_path, **lists), "ijbx", KNOWN)


def test_rates_by_rank_are_over_the_searches_of_all_galleries_and_tpir_is_the_mean_over_the_galleries(tmp_path):
    # Templates are at angles on the circle: galleries at 0 and 60, and at 20 and 100; ten probes of nobody at 200 to 209.
    angles = {1: 0, 2: 60, 3: 20, 4: 100, 5: 5, 6: 50, 7: 57, 8: 95} | {number: 180 + number for number in range(20, 30)}
    subjects = {5: 1, 6: 1, 7: 2, 8: 3} | {number: 90 for number in range(20, 30)}
    features = np.stack([np.cos(np.radians(list(angles.values()))), np.sin(np.radians(list(angles.values())))], 1)
    probes = "".join(f"{template},{subject}\n" for template, subject in subjects.items())
    lists = read_search_lists(
        write_lists(tmp_path, probes, gallery_G1="1,1\n2,2\n", gallery_G2="3,3\n4,4\n"), "ijbx", np.array(list(angles))
    )
    found = identify(lists, np.array(list(angles)), features.astype(np.float32))
    # First is 5 (5 degrees from 1) and 7 (3 degrees from 2), second 6 (50 from 1, but 10 from 2) and 8 (75 from 3, 5 from 4).
    assert found.rates == {1: 0.5, 5: 1.0}
    (far, tpir, thresholds), (_, rare, _) = found.summary()
    # Of the 11 without a mate in gallery 1, FPIR 0.1 allows one, which is 8, 35 degrees from 2: 5 and 7 are nearer, two of three.
    # Of 13 in gallery 2 it allows one too, but no first mate is there.
    assert far == 0.1 and tpir == pytest.approx((2 / 3 + 0) / 2) and len(thresholds.split(", ")) == 2
    assert rare is None
