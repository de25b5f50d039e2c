"""An embedder gives the same unit embeddings for paths, bytes, arrays and iterators of them, in any number of threads."""

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cv2
import fake_embedding
import numpy as np
import pytest
from engine_params import engines_here

import arcface
from arcface.errors import UserError
from arcface.inference import embedder as module
from arcface.inference.embed import unit_embeddings


class Engine:
    """An engine for one thread at a time, as most are; fails where another enters."""

    def __init__(self):
        self.busy, self.batches = threading.Lock(), []

    def __call__(self, images):
        assert self.busy.acquire(blocking=False), "two threads at once"
        try:
            time.sleep(0.002)
            self.batches.append(len(images))
            return fake_embedding.embed(images)
        finally:
            self.busy.release()


@pytest.fixture
def open_fake(monkeypatch):
    """Returns a function that opens an Embedder and its engine, which needs no network."""

    def open_it(**options):
        engine = Engine()

        @contextmanager
        def opened(*_):
            yield engine

        monkeypatch.setattr(module, "open_embedder", opened)
        return arcface.Embedder("nowhere", embedding_size=8, **options), engine

    return open_it


@pytest.fixture(scope="module")
def files(make_data_set) -> list[Path]:
    return sorted((make_data_set(11, 3) / "images").iterdir())


def unit(crops: np.ndarray) -> np.ndarray:
    raw = fake_embedding.embed(crops).astype(np.float64)
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)


def test_every_kind_of_image_gives_the_same_unit_embeddings(open_fake, files):
    crops = np.stack([arcface.read_image(file) for file in files])
    expected, upright = unit(crops), crops.transpose(0, 2, 3, 1)
    embed, _ = open_fake(batch_size=4)
    ways = [files, list(map(str, files)), [file.read_bytes() for file in files], crops, list(crops), upright, iter(upright)]
    for images in ways:
        embeddings = embed(images)
        assert embeddings.dtype == np.float32 and np.array_equal(embeddings, expected)
    for image in files[0], str(files[0]), files[0].read_bytes(), crops[0], upright[0]:
        assert np.array_equal(embed(image), expected[:1])
    assert embed([]).shape == embed(crops[:0]).shape == (0, 8)


def test_images_are_read_a_little_ahead_and_embedded_in_batches(open_fake, files):
    embed, engine = open_fake(batch_size=4)
    embed(files)
    assert engine.batches == [4, 4, 3]
    taken = []

    def endless():
        while True:
            taken.append(len(taken))
            yield files[0]

    several = embed.each(endless())
    assert next(several).shape == (1, 8) and len(taken) <= 2 * 4 + 1


def test_an_array_may_be_written_again_once_it_was_yielded(open_fake, files):
    embed, _ = open_fake()
    crops, frame = np.stack([arcface.read_image(file) for file in files]), np.empty((3, 112, 112), np.uint8)

    def camera():
        for crop in crops:
            frame[:] = crop
            yield frame

    assert np.array_equal(embed(camera()), unit(crops))


def test_threads_get_the_bits_of_one(open_fake, files):
    embed, _ = open_fake(batch_size=3)
    expected = embed(files)
    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(found, expected) for found in pool.map(lambda _: embed(files), range(12)))


def test_a_mirror_image_is_added_where_that_is_asked_for(open_fake, files):
    crops = np.stack([arcface.read_image(file) for file in files])
    raw = fake_embedding.embed(crops) + fake_embedding.embed(crops[..., ::-1])
    expected = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    assert open_fake(flip=True)[0](files) == pytest.approx(expected, abs=1e-6)


def test_a_closed_embedder_keeps_no_engine_and_no_thread(open_fake, files):
    gc.collect()  # of other tests' embedders
    before = threading.active_count()
    embed, engine = open_fake()
    with embed:
        embed(files)
        kept = weakref.ref(engine)
        del engine
    module.open_embedder = None  # the fixture's function has it too; the fixture restores the real one
    gc.collect()
    assert kept() is None and threading.active_count() == before
    with pytest.raises(ValueError, match="the embedder is closed"):
        embed(files)


def test_what_cannot_be_embedded_is_named(open_fake, files, tmp_path):
    embed, _ = open_fake()
    (tmp_path / "text.jpg").write_text("no image")
    photo = cv2.imencode(".png", np.zeros((100, 90, 3), np.uint8))[1].tobytes()
    for images, message in [
        ([files[0], tmp_path / "absent.jpg"], "absent.jpg: No such file or directory"),
        (tmp_path, "Is a directory"),
        (tmp_path / "text.jpg", "text.jpg: not an image that OpenCV can decode"),
        ([files[0], photo], "^image 1: the image is 90x100 pixels, not a 112x112 crop; pass a --detector"),
        (np.zeros((90, 80, 3), np.uint8), "^image 0: the image is 80x90 pixels, not a 112x112 crop"),
    ]:
        with pytest.raises(UserError, match=message):
            embed(images)
    for wrong in (np.zeros((3, 112, 112), np.float32), np.zeros((112, 112), np.uint8), np.zeros((0, 112, 3), np.uint8)):
        with pytest.raises(ValueError, match="an image is uint8 .* not "):
            embed(wrong)
    assert embed(files[0]).shape == (1, 8)  # it still works


def test_options_that_make_no_sense_are_refused(open_fake):
    for options in ({"faces": "two"}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="faces are largest or all, not two|batch_size is at least 1, not 0"):
            open_fake(**options)


def test_embeddings_that_are_not_finite_are_refused_and_zeros_stay():
    crops = np.zeros((3, 3, 112, 112), np.uint8)
    assert not unit_embeddings(lambda images: np.zeros((len(images), 8), np.float32), crops, 2).any()
    with pytest.raises(UserError, match="embeddings are not finite .*; choose another --checkpoint"):
        unit_embeddings(lambda images: np.full((len(images), 8), np.nan, np.float32), crops, 2)


@pytest.fixture
def checkpoint(tiny, tmp_path):
    import paddle

    from arcface.backbones import create_backbone

    paddle.seed(0)
    paddle.save(create_backbone("Tiny", 8).state_dict(), str(tmp_path / "Tiny.pdparams"))
    return tmp_path


def test_it_is_open_embedder_s_function_on_images(checkpoint, files):
    with arcface.open_embedder(checkpoint, "Tiny", 8, "paddle", "cpu") as embed:
        raw = embed(np.stack([arcface.read_image(file) for file in files]))
    with arcface.Embedder(checkpoint, "Tiny", 8, engine="paddle", device="cpu") as embedder:
        embeddings = embedder(files)
        assert embeddings == pytest.approx(raw / np.linalg.norm(raw, axis=1, keepdims=True), abs=1e-6)
        with ThreadPoolExecutor(3) as pool:
            assert all(np.array_equal(found, embeddings) for found in pool.map(lambda _: embedder(files), range(6)))


@pytest.mark.exhaustive
@pytest.mark.parametrize("engine", engines_here("openvino", "paddle-inference", "onnxruntime"))
@pytest.mark.usefixtures("exports_once")
def test_each_engine_gives_threads_the_bits_of_one_and_paddle_s_embeddings(engine, files, tmp_path):
    import paddle

    from arcface.backbones import create_backbone

    paddle.seed(0)
    paddle.save(create_backbone("MobileFaceNet_128", 128).state_dict(), str(tmp_path / "MobileFaceNet_128.pdparams"))
    with arcface.Embedder(tmp_path, engine="paddle", device="cpu") as embedder:
        expected = embedder(files)
    with arcface.Embedder(tmp_path, engine=engine, device="cpu", batch_size=4) as embedder:
        embeddings = embedder(files)
        assert np.abs(embeddings - expected).max() < 1e-4
        with ThreadPoolExecutor(3) as pool:
            assert all(np.array_equal(found, embeddings) for found in pool.map(lambda _: embedder(files), range(6)))


def test_photos_are_detected_aligned_and_embedded(checkpoint, real_data):
    photos = sorted((real_data / "lfw_photos" / "photos" / "Abel_Pacheco").iterdir())
    model = real_data / "yunet" / "face_detection_yunet.onnx"
    with arcface.Embedder(checkpoint, "Tiny", 8, "paddle", "cpu", detector=model) as embedder:
        both = embedder(photos)
        images = [cv2.imread(str(photo))[..., ::-1] for photo in photos]
        assert both.shape == (len(photos), 8) and np.array_equal(embedder(images), both)
        wide = np.concatenate([images[0], images[0]], axis=1)
        assert len(embedder(wide)) == 1
    with arcface.Embedder(checkpoint, "Tiny", 8, "paddle", "cpu", detector=model, faces="all") as embedder:
        found = list(embedder.each([wide, images[0]]))
        assert [len(faces) for faces in found] == [2, 1] and embedder([wide, images[0]]).shape == (3, 8)
