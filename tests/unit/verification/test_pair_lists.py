"""Both formats of lists of pairs are read, and each wrong line is named by file and number."""

import os
from pathlib import Path

import pytest

from arcface.errors import UserError
from arcface.verification.pair_lists import read_pairs

LFW = """2\t2
Abel_Pacheco\t1\t4
Akhmed_Zakayev\t1\t13
Abdel_Madi_Shabneh\t1\tDean_Barker\t1
Abdel_Madi_Shabneh\t1\tGiancarlo_Fisichella\t12345
Bob_Beauprez\t1\t2
Carlos_Moya\t7\t9
Bob_Beauprez\t1\tCarlos_Moya\t7
Carlos_Moya\t9\tBob_Beauprez\t2
"""
LFW_PATHS = [
    "Abel_Pacheco/Abel_Pacheco_0001",
    "Abel_Pacheco/Abel_Pacheco_0004",
    "Akhmed_Zakayev/Akhmed_Zakayev_0001",
    "Akhmed_Zakayev/Akhmed_Zakayev_0013",
    "Abdel_Madi_Shabneh/Abdel_Madi_Shabneh_0001",
    "Dean_Barker/Dean_Barker_0001",
    "Abdel_Madi_Shabneh/Abdel_Madi_Shabneh_0001",
    "Giancarlo_Fisichella/Giancarlo_Fisichella_12345",
    "Bob_Beauprez/Bob_Beauprez_0001",
    "Bob_Beauprez/Bob_Beauprez_0002",
    "Carlos_Moya/Carlos_Moya_0007",
    "Carlos_Moya/Carlos_Moya_0009",
    "Bob_Beauprez/Bob_Beauprez_0001",
    "Carlos_Moya/Carlos_Moya_0007",
    "Carlos_Moya/Carlos_Moya_0009",
    "Bob_Beauprez/Bob_Beauprez_0002",
]
LFW_SAME = [True, True, False, False, True, True, False, False]


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "pairs.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_pairs(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message and len(message) < len(str(path)) + 300
    return message.removeprefix(str(path))


def test_lfw_with_folds_is_read(tmp_path):
    pairs = read_pairs(write(tmp_path, LFW))
    assert pairs.paths == LFW_PATHS and pairs.is_same == LFW_SAME
    assert pairs.lines == list(range(2, 10)) and pairs.suffixes == (".jpg", ".png")


def test_lfw_without_folds_is_read(tmp_path):
    pairs = read_pairs(str(write(tmp_path, LFW.replace("2\t2\n", "4\n", 1))))
    assert pairs.paths == LFW_PATHS and pairs.is_same == LFW_SAME


def test_paths_separated_by_tabs_may_have_spaces(tmp_path):
    pairs = read_pairs(write(tmp_path, "my face.png\tb/2 .jpg\t1\na \t b\u3000c.png\t 0\n"))
    assert pairs.paths == ["my face.png", "b/2 .jpg", "a", "b\u3000c.png"]
    assert pairs.is_same == [True, False] and pairs.suffixes == ("",)


def test_paths_separated_by_white_space_are_read(tmp_path):
    pairs = read_pairs(write(tmp_path, "1 2 0\na/1.jpg   b/2.jpg 0\na/1.jpg a/2.jpg 1\n"))
    assert pairs.paths == ["1", "2", "a/1.jpg", "b/2.jpg", "a/1.jpg", "a/2.jpg"]
    assert pairs.is_same == [False, False, True]


@pytest.mark.parametrize("content", [LFW, "a b 1\nc d\u00e9 0\n"])
@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff# made by hand\r\n\r\n" + text.replace("\n", "\r\n\r\n  # a b 2\r\n"),
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("\n", " \t\n"),
    ],
    ids=["BOM", "CR-LF", "comments", "no last newline", "trailing space"],
)
def test_what_editors_add_changes_nothing(tmp_path, content, change):
    expected, found = read_pairs(write(tmp_path, content)), read_pairs(write(tmp_path, change(content)))
    assert (found.paths, found.is_same, found.suffixes) == (expected.paths, expected.is_same, expected.suffixes)


def test_lines_are_numbered_as_an_editor_does(tmp_path):
    path = write(tmp_path, "\n# pairs\na b 1\n\n#\nc d 0\nwrong\n")
    assert " line 7: 'wrong'" in refusal(path)
    path = write(tmp_path, "\n# pairs\na b 1\n\n#\nc d 0\n")
    assert read_pairs(path).lines == [3, 6]


def test_names_that_are_not_utf8_are_kept(tmp_path):
    pairs = read_pairs(write(tmp_path, b"caf\xe9.jpg b 1\nc d 0\n"))
    (tmp_path / "images").mkdir()
    for name in b"caf\xe9.jpg", b"b", b"c", b"d":
        (tmp_path / "images" / os.fsdecode(name)).touch()
    assert len(pairs.find_images(tmp_path / "images")) == 4


LFW_LINE = "Name<TAB>1<TAB>4"
PATH_LINE = "two paths and 0 or 1"


@pytest.mark.parametrize(
    "line, complaint",
    [
        ("Abel_Pacheco", LFW_LINE),
        ("Abel_Pacheco\t1", LFW_LINE),
        ("Abel_Pacheco\t1\tDean_Barker\t2\t3", LFW_LINE),
        ("Abel_Pacheco\t1\tfour", "has 'four' in the place of an image's number"),
        ("Abel_Pacheco\t-1\t4", "has '-1' in the place"),
        ("Abel_Pacheco\t1\t4.0", "has '4.0' in the place"),
        ("Abel_Pacheco\t1\t\u0664", "in the place of an image's number"),  # a digit, in Arabic
        ("Abel_Pacheco\t1\t1234567890", "in the place of an image's number"),
        ("Abel_Pacheco\tDean_Barker\t1\t2", "has 'Dean_Barker' in the place"),
        ("Abel_Pacheco\t1\tDean_Barker\tx", "has 'x' in the place"),
        ("Abel_Pacheco\t1\tAbel_Pacheco\t2", "names one identity twice"),
        ("../Abel_Pacheco\t1\t2", "leaves the image directory"),
        ("..\t1\t2", "leaves the image directory"),
        ("/etc\t1\t2", "leaves the image directory"),
        ("Abel_Pacheco\t1\t../Dean\t2", "leaves the image directory"),
        ("a.jpg\tb.jpg\t1", "has 'b.jpg' in the place"),
        ("x" * 1_000_000, LFW_LINE),
    ],
)
def test_a_wrong_line_of_lfw_is_named(tmp_path, line, complaint):
    lines = LFW.splitlines()
    lines[4] = line
    message = refusal(write(tmp_path, "\n".join(lines)))
    assert message.startswith(" line 5: '" + line[:90]) and complaint in message


@pytest.mark.parametrize(
    "line, complaint",
    [
        ("a", PATH_LINE),
        ("a b", PATH_LINE),
        ("a b c 1", "with tabs between them if a path has spaces"),
        ("a\tb\tc\t1", PATH_LINE),
        ("a\t\t1", PATH_LINE),
        ("a\tb 1", PATH_LINE),
        ("a b 2", "does not end with 0 or 1"),
        ("a b True", "does not end with 0 or 1"),
        ("a b -1", "does not end with 0 or 1"),
        ("a b 1.0", "does not end with 0 or 1"),
        ("a b 01", "does not end with 0 or 1"),
        ("1 a b", "does not end with 0 or 1"),
        ("a b \u0661", "does not end with 0 or 1"),
        ("10\t300", PATH_LINE),
        ("Abel_Pacheco\t1\t4", "an LFW list begins with its counts"),
        ("/etc/passwd b 1", "leaves the image directory"),
        ("a /etc/passwd 0", "leaves the image directory"),
        ("../b a 1", "leaves the image directory"),
        ("a b/../../c 1", "leaves the image directory"),
        ("a .. 1", "leaves the image directory"),
        ("\x00" * 1_000_000, PATH_LINE),
    ],
)
def test_a_wrong_line_of_paths_is_named(tmp_path, line, complaint):
    message = refusal(write(tmp_path, f"a b 1\n\nc d 0\n{line}\ne f 0\n"))
    assert message.startswith(" line 4: '" + line.replace("\0", r"\x00")[:90]) and complaint in message


def test_a_path_with_dots_in_its_name_stays_inside(tmp_path):
    assert read_pairs(write(tmp_path, "a..b ...c 1\n./d e/./f 0\n")).is_same == [True, False]


@pytest.mark.parametrize(
    "content, counts",
    [
        (LFW.replace("2\t2", "2\t3"), "announces 6 pairs of one identity and 6 of two, but 4 and 4 follow"),
        (LFW.replace("2\t2", "4\t2"), "announces 8 pairs"),
        (LFW.replace("2\t2", "5"), "announces 5 pairs"),
        (LFW.replace("2\t2", "0"), "announces 0 pairs"),
        (LFW.replace("2\t2", "999999999 999999999"), "but 4 and 4 follow"),
        (LFW[: LFW.rindex("Carlos_Moya\t9")], "but 4 and 3 follow"),
        (LFW[: LFW.rindex("Carlos_Moya\t9")] + "Carlos_Moya\t1\t2\n", "but 5 and 3 follow"),
    ],
)
def test_other_counts_than_the_first_line_says_are_reported(tmp_path, content, counts):
    message = refusal(write(tmp_path, "# LFW\n" + content))
    assert message.startswith(" line 2: ") and counts in message


@pytest.mark.parametrize("content", [b"", b"\n\n", b"# only a comment\n", b"\xef\xbb\xbf", b"10\t300\n"])
def test_a_list_without_pairs_is_reported(tmp_path, content):
    assert ": lists no pairs; " in refusal(write(tmp_path, content))


def test_pairs_of_one_kind_are_reported(tmp_path):
    assert "all 2 pairs show the same identity" in refusal(write(tmp_path, "a b 1\nc d 1\n"))
    assert "all 1 pairs show different identities" in refusal(write(tmp_path, "a b 0\n"))


def test_a_list_that_cannot_be_read_is_reported(tmp_path):
    assert "No such file" in refusal(tmp_path / "absent.txt")
    assert "Is a directory" in refusal(tmp_path)


def test_images_of_lfw_are_found_as_jpeg_or_png(tmp_path):
    pairs = read_pairs(write(tmp_path, LFW))
    for number, path in enumerate(dict.fromkeys(LFW_PATHS)):
        file = tmp_path / "lfw" / (path + (".png" if number % 2 else ".jpg"))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    found = pairs.find_images(tmp_path / "lfw")
    assert [str(file.relative_to(tmp_path / "lfw").with_suffix("")) for file in found] == LFW_PATHS
    assert {file.suffix for file in found} == {".jpg", ".png"} and all(file.is_file() for file in found)
    found[1].with_suffix(".jpg").touch()  # beside the PNG
    assert pairs.find_images(str(tmp_path / "lfw"))[1].suffix == ".jpg"


def test_all_missing_images_are_counted_and_the_first_is_named(tmp_path):
    (tmp_path / "images" / "c").mkdir(parents=True)
    (tmp_path / "images" / "a").touch()
    path = write(tmp_path, "a a 1\n\na b 0\nb c 0\na \x00 1\n")
    with pytest.raises(UserError) as caught:
        read_pairs(path).find_images(tmp_path / "images")
    message = f"{path} line 3: b: no such file in {tmp_path / 'images'} (3 of 4 images are missing); "
    assert str(caught.value).startswith(message)
    with pytest.raises(UserError, match=r"line 2: Abel_Pacheco/Abel_Pacheco_0001\.jpg or \.png: no such file .* \(11 of 11"):
        read_pairs(write(tmp_path, LFW)).find_images(tmp_path / "images")
    with pytest.raises(UserError, match="no such directory; correct --images"):
        read_pairs(path).find_images(tmp_path / "absent")


def test_links_below_the_image_directory_are_followed(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a").touch()
    (tmp_path / "images").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "b").symlink_to("a")
    assert len(read_pairs(write(tmp_path, "a b 1\nb a 0\n")).find_images(tmp_path / "images")) == 4
