"""Photos become the crops that datasets/align.py makes of them, and a file that is none is one line."""

import io
import os

import cv2
import numpy as np
import pytest
from PIL import Image

from arcface.data import detector as detector_module
from arcface.data.alignment import TEMPLATE, align
from arcface.data.detector import FaceDetector
from arcface.data.photos import CropReader, photo_paths
from arcface.errors import UserError
from arcface.io.images import channels_first


class Finder:
    """Finds faces where a test says, as OpenCV would: float32 [faces, 15]."""

    faces = np.zeros((0, 15), np.float32)

    def setInputSize(self, size):
        pass

    def detect(self, image):
        return 1, None if not len(Finder.faces) else Finder.faces


def face(x: float, y: float, scale: float = 1.0, points: np.ndarray = TEMPLATE) -> np.ndarray:
    """A row of OpenCV's: a box, the template's points in it, and a score."""
    return np.array([x, y, 112 * scale, 112 * scale, *(points * scale + (x, y)).reshape(-1), 0.9], np.float32)


@pytest.fixture
def find(monkeypatch, tmp_path):
    """Returns a function that opens a CropReader whose detector finds the given faces."""
    monkeypatch.setattr(detector_module.FaceDetector, "_open", lambda self: Finder())
    (tmp_path / "yunet.onnx").touch()

    def open_reader(which: str, *faces: np.ndarray) -> CropReader:
        monkeypatch.setattr(Finder, "faces", np.array(faces, np.float32).reshape(-1, 15))
        return CropReader(tmp_path / "yunet.onnx", which)

    return open_reader


PHOTO = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
PNG = cv2.imencode(".png", PHOTO)[1].tobytes()
MIRRORED = TEMPLATE[[1, 0, 2, 4, 3]]


def test_the_main_face_is_large_and_near_the_middle_and_all_faces_follow_it(find):
    corner, middle, small = face(0, 0, 1.2), face(144, 144), face(180, 20, 0.3)
    expected = [channels_first(align(PHOTO, row[4:14].reshape(5, 2))) for row in (middle, corner, small)]
    (main,) = find("largest", corner, middle, small).decode(PNG, "photo")
    assert main.shape == (3, 112, 112) and np.array_equal(main, expected[0])
    assert np.array_equal(find("all", corner, middle, small).decode(PNG, "photo"), [expected[0], expected[2], expected[1]])


def test_what_is_no_face_is_left_out_and_alone_it_is_refused(find):
    assert len(find("all", face(144, 144), face(0, 0, 1, MIRRORED)).decode(PNG, "photo")) == 1
    with pytest.raises(UserError, match="^photo: the landmarks are mirrored.*; use another photo$"):
        find("largest", face(144, 144, 1, MIRRORED), face(0, 0)).decode(PNG, "photo")
    with pytest.raises(UserError, match="^photo: no face found; use a photo that shows one$"):
        find("all").decode(PNG, "photo")
    with pytest.raises(UserError, match="^photo: no face found"):
        find("all", np.full(15, np.nan)).decode(PNG, "photo")


def test_without_a_detector_a_crop_is_read_and_another_size_names_the_option():
    crop = cv2.imencode(".png", PHOTO[:112, :112])[1].tobytes()
    (read,) = CropReader().decode(crop, "crop")
    assert np.array_equal(read, channels_first(PHOTO[:112, :112]))
    for reader in (lambda: CropReader().decode(PNG, "photo"), lambda: CropReader().find(PHOTO, "photo")):
        with pytest.raises(UserError, match="^photo: the image is 400x400 pixels, not a 112x112 crop; pass a --detector"):
            reader()


def test_photos_of_a_folder_are_found_in_order_whatever_they_are_called(tmp_path):
    for name in ("b/2.JPG", "b/10.jpeg", "a.png", "a b/ü.webp", "b/list.txt", ".c/x.tif", os.fsdecode(b"b/\xe9.bmp")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    found = [".c/x.tif", "a b/ü.webp", "a.png", "b/10.jpeg", "b/2.JPG", os.fsdecode(b"b/\xe9.bmp")]
    assert photo_paths(tmp_path) == found
    with pytest.raises(UserError, match="nowhere: cannot be listed .No such file or directory.; correct the path"):
        photo_paths(tmp_path / "nowhere")


def test_a_detector_that_is_none_is_one_line(tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    reasons = {"pipe.onnx": "Not a regular file", "text.onnx": "", "": "Is a directory", "none.onnx": "No such file"}
    for name, reason in reasons.items():
        with pytest.raises(UserError, match=f"--detector .*{name}: OpenCV cannot open it as a YuNet model .{reason}"):
            FaceDetector(str(tmp_path / name))


def test_strips_of_a_few_pixels_have_no_face(real_data):
    detector = FaceDetector(str(real_data / "yunet" / "face_detection_yunet.onnx"))
    for shape in ((1, 1), (1, 30_000), (30_000, 1), (40, 3000), (31, 31), (17, 1280), (5, 1280), (17, 1280)):
        assert detector.landmarks(np.zeros((*shape, 3), np.uint8)).shape == (0, 5, 2)


def odd(photo: Image.Image) -> dict[str, bytes]:
    """The photo in odd but sound encodings."""

    def encoded(image: Image.Image, format: str, **how) -> bytes:
        file = io.BytesIO()
        image.save(file, format, **how)
        return file.getvalue()

    turned = Image.Exif()
    turned[0x112] = 6
    sixteen_bits = np.asarray(photo)[..., ::-1].astype(np.uint16) * 257
    still = Image.new("RGB", photo.size)
    large = photo.resize((photo.width * 21, photo.height * 21))
    return {
        "grey": encoded(photo.convert("L"), "JPEG", quality=95),
        "cmyk": encoded(photo.convert("CMYK"), "JPEG", quality=95),
        "16 bit": cv2.imencode(".png", sixteen_bits)[1].tobytes(),
        "palette": encoded(photo.quantize(256), "PNG"),
        "transparent": encoded(photo.convert("RGBA"), "PNG"),
        "exif": encoded(photo.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=turned),
        "animated webp": encoded(photo, "WEBP", save_all=True, append_images=[still], lossless=True),
        "animated png": encoded(photo, "PNG", save_all=True, append_images=[still]),
        "progressive": encoded(photo, "JPEG", quality=95, progressive=True),
        "huge": encoded(large, "JPEG", quality=90),
    }


def test_the_face_is_found_in_odd_but_sound_photos(real_data):
    model = str(real_data / "yunet" / "face_detection_yunet.onnx")
    photo = Image.open(real_data / "lfw_photos" / "photos" / "Abel_Pacheco" / "Abel_Pacheco_0001.jpg")
    reader = CropReader(model)
    (expected,) = reader.find(np.asarray(photo)[..., ::-1].copy(), "photo")
    for name, content in odd(photo).items():
        (crop,) = reader.decode(content, name)
        difference = crop.mean(0) - expected.mean(0)
        assert np.abs(difference).mean() < 30, name  # upside down it is 57 or more


@pytest.mark.exhaustive
def test_807_photos_give_the_crops_of_align(real_data, tmp_path):
    from arcface.align import main

    photos, model = real_data / "lfw_photos" / "photos", str(real_data / "yunet" / "face_detection_yunet.onnx")
    main(["--images", str(photos), "--detector", model, "--output", str(tmp_path), "--format", "png"])
    reader = CropReader(model)
    paths = photo_paths(photos)
    for path in paths:
        (crop,) = reader.read(photos / path)
        assert np.array_equal(crop, channels_first(cv2.imread(str((tmp_path / path).with_suffix(".png"))))), path
    assert len(paths) == 807
