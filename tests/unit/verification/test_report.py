"""The report shows the figures of the metrics, the worst mistakes in their order, and needs no other file."""

import base64
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from arcface.data.bin_file import VerificationSet
from arcface.errors import UserError
from arcface.io.figures import pixels
from arcface.verification.evaluator import Verification
from arcface.verification.metrics import kfold_accuracy
from arcface.verification.plots import roc_figure, thinned, thinned_figure
from arcface.verification.report import WORST, SetReport, report_pairs, write_report
from arcface.verification.roc import auc, equal_error_rate, roc, tar_at_far, tar_band


def made_up(pairs: int, name: str = "tiny"):
    """A set whose images say which they are, and its verification."""
    generator = np.random.default_rng(pairs)
    same = np.arange(pairs) % 2 == 0
    similarities = np.clip(generator.normal(np.where(same, 0.5, 0.2), 0.2), -1, 1)
    images = [b"\xff\xd8 image %d" % number for number in range(2 * pairs)]
    result = Verification(10.5, kfold_accuracy(2 - 2 * similarities, same), similarities, roc(similarities, same))
    return VerificationSet(name, images, same), result


class Sources(HTMLParser):
    """Collects what a page loads, and the text of its tables' cells."""

    def __init__(self, page: str):
        super().__init__()
        self.loaded, self.cells, self.in_cell = [], [], False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.in_cell = tag in ("td", "th")
        self.loaded += [value for name, value in attributes if name in ("src", "href", "data", "srcset")]

    def handle_data(self, text):
        if self.in_cell:
            self.cells.append(text)


def test_the_worst_mistakes_come_first_with_their_own_images():
    pairs, result = made_up(600)
    one = report_pairs(pairs, result)
    accepted = result.similarities >= one.threshold
    expected = {
        "false_accepts": sorted(np.flatnonzero(accepted & ~pairs.is_same), key=lambda pair: -result.similarities[pair]),
        "false_rejects": sorted(np.flatnonzero(~accepted & pairs.is_same), key=lambda pair: result.similarities[pair]),
    }
    assert one.counts == tuple(map(len, expected.values())) and min(one.counts) > WORST
    for kind, numbers in expected.items():
        mistakes = getattr(one, kind)
        assert [mistake.pair for mistake in mistakes] == numbers[:WORST]
        for mistake in mistakes:
            assert mistake.similarity == result.similarities[mistake.pair]
            assert mistake.images == (pairs.images[2 * mistake.pair], pairs.images[2 * mistake.pair + 1])


def test_no_other_threshold_makes_fewer_mistakes():
    pairs, result = made_up(600)
    one = report_pairs(pairs, result)
    fewest = min(np.count_nonzero((result.similarities >= threshold) != pairs.is_same) for threshold in result.similarities)
    assert sum(one.counts) == fewest


def test_the_page_has_the_figures_and_loads_nothing(tmp_path):
    sets = [made_up(600), made_up(31, "<b>a&b")]
    page = write_report(tmp_path / "new" / "report", [report_pairs(*one) for one in sets], {"date": "today", "x": "<script>"})
    assert page == tmp_path / "new" / "report" / "index.html"
    text = page.read_text()
    assert "<b>a&b" not in text and "<script>" not in text
    sources = Sources(text)
    assert len(sources.loaded) > 2 + 2 * 2 * WORST and all(source.startswith("data:image/") for source in sources.loaded)
    assert not re.search(r"@import|url\(", text)
    cells = sources.cells
    for pairs, result in sets:
        assert f"{result.accuracy.mean:.5f} ± {result.accuracy.std:.5f}" in cells
        assert f"{auc(result.curve):.5f}" in cells and f"{100 * equal_error_rate(result.curve)[0]:.2f} %" in cells
        for point in tar_at_far(result.curve):
            assert ("not enough negatives" if point.tar is None else "%.2f %%" % (100 * point.tar)) in cells
        one = report_pairs(pairs, result)
        for number in (2 * one.false_accepts[0].pair, 2 * one.false_rejects[-1].pair + 1):
            assert f"data:image/jpeg;base64,{base64.b64encode(pairs.images[number]).decode()}" in sources.loaded
    assert "today" in cells


def test_the_pictures_stand_beside_the_page(tmp_path):
    pairs, result = made_up(600)
    write_report(tmp_path, [report_pairs(pairs, result)], {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["histogram_tiny.png", "index.html", "report.json", "roc.png"]
    for name in ("histogram_tiny.png", "roc.png"):
        assert cv2.imread(str(tmp_path / name)).std() > 5


def test_a_set_of_templates_has_its_curve_and_no_pictures_of_pairs(tmp_path):
    _, result = made_up(600)
    text = write_report(tmp_path, [SetReport("ijbx", result.curve)], {}).read_text()
    assert "ijbx" in text and "False accepts" not in text and len(Sources(text).loaded) == 1


def test_a_perfect_set_says_that_there_is_no_mistake(tmp_path):
    similarities, same = np.array([0.9, 0.1] * 10), np.array([True, False] * 10)
    perfect = Verification(1, kfold_accuracy(2 - 2 * similarities, same), similarities, roc(similarities, same))
    one = report_pairs(VerificationSet("tiny", [b"\xff"] * 40, same), perfect)
    assert one.counts == (0, 0)
    assert write_report(tmp_path, [one], {}).read_text().count(">none<") == 2


def test_a_place_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--report .*file: cannot be written"):
        write_report(tmp_path / "file", [SetReport("ijbx", made_up(20)[1].curve)], {})


def test_the_roc_s_line_is_the_curve_and_its_band_the_bootstrap_s():
    curve = made_up(600)[1].curve
    (axes,) = roc_figure({"tiny": curve}).axes
    (line,) = axes.lines
    seen = curve.far >= 1 / 300
    assert line.get_xdata()[seen].tolist() == curve.far[seen].tolist() and line.get_ydata().tolist() == curve.tar.tolist()
    assert axes.get_xscale() == "log" and [text.get_text() for text in axes.get_legend().get_texts()] == ["tiny"]
    (band,) = axes.collections
    low, high = tar_band(curve, np.geomspace(1 / 300, 1, 200))
    corners = band.get_paths()[0].vertices
    assert corners[:, 1].min() == np.nanmin(low) and corners[:, 1].max() == np.nanmax(high)


def test_what_is_stored_of_a_curve_is_on_it():
    curve = made_up(600)[1].curve
    stored = thinned(curve)
    points = tar_at_far(curve, np.clip(np.geomspace(1 / 300, 1, 200), 1 / 300, 1))
    assert stored["tar"] == pytest.approx([point.tar for point in points], abs=1e-6)
    assert stored["far"][0] == pytest.approx(1 / 300, abs=1e-9) and stored["far"][-1] == 1
    picture = pixels(thinned_figure("tiny", stored))
    assert picture.dtype == np.uint8 and picture.shape[2] == 3 and picture.std() > 5
