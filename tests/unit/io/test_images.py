"""Images become RGB arrays between -1 and 1."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from arcface.errors import UserError
from arcface.io import images
from arcface.io.images import batch_channels_first, channels_first, decode, normalise


def test_decoding_gives_rgb_channels_first():
    red = np.zeros((112, 112, 3), np.uint8)
    red[:50, :, 2] = 255  # OpenCV writes BGR
    image = decode(cv2.imencode(".png", red)[1].tobytes(), "red")
    assert image.shape == (3, 112, 112) and image.dtype == np.uint8
    assert (image[0, :50] == 255).all() and (image[0, 50:] == 0).all() and (image[1:] == 0).all()


def blobs(size: int) -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 256, (14, 14, 3), np.uint8)
    return cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC)


def jpeg(*parameters: int, size: int = 112) -> bytes:
    return cv2.imencode(".jpg", blobs(size), parameters)[1].tobytes()


def pillow(mode: str, **options) -> bytes:
    Image = pytest.importorskip("PIL.Image")
    Image.fromarray(blobs(112)).convert(mode).save(written := io.BytesIO(), "JPEG", **options)
    return written.getvalue()


def turned() -> bytes:
    exif = pytest.importorskip("PIL.Image").Exif()
    exif[0x112] = 6  # a quarter to the right
    return pillow("RGB", exif=exif)


JPEGS = {
    "plain": jpeg,
    "4:4:4": lambda: jpeg(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
    "4:2:2": lambda: jpeg(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422),
    "4:4:0": lambda: jpeg(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440),
    "progressive": lambda: jpeg(cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "worst": lambda: jpeg(cv2.IMWRITE_JPEG_QUALITY, 1),
    "best": lambda: jpeg(cv2.IMWRITE_JPEG_QUALITY, 100),
    "restarts": lambda: jpeg(cv2.IMWRITE_JPEG_RST_INTERVAL, 3),
    "grey": lambda: pillow("L"),
    "CMYK": lambda: pillow("CMYK"),
    "turned": turned,
    "more behind it": lambda: jpeg() + b"more",
    "damaged": lambda: jpeg()[:900] + b"x" * 50 + jpeg()[950:],
    "cut off": lambda: jpeg()[:-2],
    "smaller": lambda: jpeg(size=111),
    "larger": lambda: jpeg(size=113),
    "zeros": lambda: jpeg()[:900] + bytes(900),
    "PNG": lambda: cv2.imencode(".png", blobs(112))[1].tobytes(),
}


@pytest.mark.parametrize("kind", JPEGS)
def test_the_faster_decoder_changes_nothing(monkeypatch, kind):
    pytest.importorskip("simplejpeg")
    encoded, results = JPEGS[kind](), []
    for decoder in (images.decode_jpeg, None):
        monkeypatch.setattr(images, "decode_jpeg", decoder)
        try:
            results.append(decode(encoded, "it").tobytes())
        except UserError as error:
            results.append(str(error))
    assert results[0] == results[1]
    assert (kind in ("cut off", "smaller", "larger", "zeros")) == isinstance(results[0], str), results[0]


@pytest.mark.parametrize("faster", [True, False])
def test_a_crop_is_decoded_into_a_given_array_and_errors_name_the_image(monkeypatch, faster):
    if not faster:
        monkeypatch.setattr(images, "decode_jpeg", None)
    batch = np.zeros((3, 112, 112, 3), np.uint8)
    assert images.decode_crop(jpeg(), "it", out=batch[1]) is not None
    assert np.array_equal(channels_first(batch[1]), decode(jpeg(), "it")) and not batch[[0, 2]].any()
    with pytest.raises(UserError, match="it: the image is 40x40 pixels, not 112x112"):
        images.decode_crop(jpeg(size=40), "it", out=batch[1])


def test_a_grey_image_is_read_as_rgb():
    grey = np.full((112, 112), 77, np.uint8)
    assert (decode(cv2.imencode(".png", grey)[1].tobytes(), "grey") == 77).all()


def test_a_header_that_claims_absurd_sizes_is_refused():
    png = bytearray(cv2.imencode(".png", np.zeros((112, 112, 3), np.uint8))[1].tobytes())
    png[16:24] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    with pytest.raises(UserError, match="huge: the image is 2147483647x2147483647 pixels, more than 200,000,000; scale it down"):
        decode(bytes(png), "huge")


def test_opencv_itself_prints_nothing_about_a_damaged_image(capfd):
    bmp = cv2.imencode(".bmp", blobs(112))[1].tobytes()
    with pytest.raises(UserError, match="half: not an image"):
        images.decode_any_size(bmp[: len(bmp) // 2], "half")
    assert capfd.readouterr() == ("", "")


def turned(degrees: int, size=(600, 400)) -> bytes:
    """A JPEG, blue above and red below, once a viewer has turned it as its Exif data say; they are stored otherwise."""
    orientation = {0: 1, 90: 8, 180: 3, 270: 6}[degrees]
    upright = np.zeros((size[1], size[0], 3), np.uint8)
    upright[: size[1] // 2, :, 2], upright[size[1] // 2 :, :, 0] = 255, 255
    exif = Image.Exif()
    exif[0x112] = orientation
    file = io.BytesIO()
    Image.fromarray(np.rot90(upright, -degrees // 90)).save(file, "JPEG", exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("most, shape", [(10**9, (400, 600)), (100_000, (200, 300)), (20_000, (100, 150)), (1, (50, 75))])
def test_a_photo_is_turned_upright_and_decoded_smaller_where_it_is_huge(degrees, most, shape, monkeypatch):
    monkeypatch.setattr(images, "WHOLE_PIXELS", most)
    photo = images.decode_photo(turned(degrees), "photo")
    assert photo.shape == (*shape, 3)
    assert photo[5, 5, 0] > 200 > 50 > photo[5, 5, 2] and photo[-5, -5, 2] > 200 > 50 > photo[-5, -5, 0]


def test_a_png_is_decoded_at_its_size_and_a_landmark_s_photo_too(monkeypatch):
    monkeypatch.setattr(images, "WHOLE_PIXELS", 1)
    png = cv2.imencode(".png", blobs(100))[1].tobytes()
    assert np.array_equal(images.decode_photo(png, "it"), blobs(100))
    assert images.decode_any_size(jpeg(size=100), "it").shape == (100, 100, 3)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_too_many_pixels_are_refused_before_they_are_decoded(format, monkeypatch):
    file = io.BytesIO()
    Image.new("RGB", (101, 100)).save(file, format)
    monkeypatch.setattr(images, "MOST_PIXELS", 10_000)
    monkeypatch.setattr(cv2, "imdecode", None)
    for decoded in images.decode_photo, images.decode_any_size:
        with pytest.raises(UserError, match="it: the image is 101x100 pixels, more than 10,000; scale it down"):
            decoded(file.getvalue(), "it")


def test_a_batch_becomes_channels_first_as_each_image_does():
    images = np.random.default_rng(0).integers(0, 256, (5, 112, 112, 3), np.uint8)
    batch = batch_channels_first(images)
    assert batch.flags.c_contiguous and np.array_equal(batch, [channels_first(image) for image in images])


@pytest.mark.parametrize("kind", [".jpg", ".png"])
def test_every_truncated_image_is_refused(kind):
    draw = np.random.default_rng(0)
    content = cv2.imencode(kind, draw.integers(0, 256, (112, 112, 3), np.uint8))[1].tobytes()
    for length in (*range(20), *draw.integers(20, len(content) - 12, 100), *range(len(content) - 12, len(content))):
        for end in (b"", bytes(len(content) - length)):  # a full disk can leave zeros
            if content[length:] != end:
                with pytest.raises(UserError, match="cut: (not an|truncated) image"):
                    decode(content[:length] + end, "cut")


def test_normalising_maps_0_to_minus_1_and_255_to_1():
    assert normalise(np.array([0, 255], np.uint8)).tolist() == [-1.0, 1.0]
