"""python -m arcface.embed: folders, lists and datasets become a file of unit embeddings, whatever stops or divides the work."""

import os
import pickle
import shutil
import signal
import sys
import time
from pathlib import Path

import cv2
import forks
import numpy as np
import pytest
from image_lists import write_records

import arcface
from arcface import embed as command
from arcface.errors import UserError
from arcface.inference import embed_images as module

OPTIONS = ["--network=Tiny", "--embedding_size=8", "--device=cpu", "--engine=paddle"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A directory with weights of the backbone Tiny."""
    import paddle
    from tiny_backbone import Tiny

    paddle.seed(0)
    folder = tmp_path_factory.mktemp("checkpoint")
    paddle.save(Tiny(8).state_dict(), str(folder / "Tiny.pdparams"))
    return folder


@pytest.fixture(scope="module")
def many(make_data_set, tmp_path_factory) -> Path:
    """A folder of 1,100 images, three parts, in eleven folders; every hundredth is no image."""
    images = sorted((make_data_set(20, 4) / "images").iterdir())
    folder = tmp_path_factory.mktemp("many")
    for number in range(1100):
        path = folder / f"{number % 11}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        os.link(images[number % 20], path) if number % 100 else path.write_bytes(b"no image %d" % number)
    return folder


@pytest.fixture
def embed(tiny, checkpoint, tmp_path, monkeypatch, capsys):
    """Returns a function that embeds images into tmp_path / output, and returns the line that is printed."""

    def call(images: Path, output: str = "features.npz", *options: str) -> str:
        arguments = [str(images), "--checkpoint", str(checkpoint), "--output", str(tmp_path / output), *OPTIONS, *options]
        monkeypatch.setattr(sys, "argv", ["embed", *arguments])
        command.main()
        return capsys.readouterr().out

    return call


@pytest.fixture
def expected(tiny, checkpoint):
    """Returns a function from files to their unit embeddings."""

    def of(files) -> np.ndarray:
        with arcface.Embedder(checkpoint, "Tiny", 8, "paddle", "cpu") as embedder:
            return embedder(files)

    return of


def test_a_folder_becomes_rows_in_the_order_of_its_paths_without_what_is_no_image(embed, expected, many, tmp_path):
    line = embed(many)
    paths = sorted(str(path.relative_to(many)) for path in many.rglob("*.jpg"))
    good = [path for path in paths if int(Path(path).stem) % 100]
    features = np.load(tmp_path / "features.npz")
    assert set(features) == {"embeddings", "paths"} and features["paths"].tolist() == good
    assert features["embeddings"].dtype == np.float32 and features["embeddings"].shape == (1089, 8)
    assert features["embeddings"] == pytest.approx(expected(many / path for path in good), abs=1e-6)
    listed = (tmp_path / "features.npz.unreadable.txt").read_text().splitlines()
    assert [entry.split("\t")[0] for entry in listed] == [path for path in paths if path not in good]
    assert listed[0].startswith("0/0.jpg\tnot an image that OpenCV can decode (10 bytes)")
    assert "1,089 embeddings of 1,089 images, 11 images without one, listed in " in line
    assert sorted(os.listdir(tmp_path)) == ["features.npz", "features.npz.unreadable.txt"]


def test_what_a_killed_run_has_ready_is_not_read_again_and_the_bytes_are_the_same(embed, many, tmp_path, monkeypatch):
    embed(many, "whole.npz")
    real, saved = np.savez, []

    def killed_at_the_third(file, **part):
        saved.append(file)
        if len(saved) == 3:
            file.write(b"half a part")
            raise KeyboardInterrupt
        real(file, **part)

    monkeypatch.setattr(np, "savez", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        embed(many)
    assert not (tmp_path / "features.npz").exists() and len(list((tmp_path / "features.npz.partial").glob("part_*"))) == 2
    monkeypatch.setattr(np, "savez", real)
    for options in (["--flip=1"], ["--batch_size=7"]):
        with pytest.raises(UserError, match="features.npz.partial: was begun for other images, weights or options; remove it"):
            embed(many, "features.npz", *options)
    read = []
    crops = module._crops
    monkeypatch.setattr(module, "_crops", lambda images, reader, at: read.append(at) or crops(images, reader, at))
    embed(many)
    assert sorted(read) == list(range(1024, 1100))
    for suffix in "", ".unreadable.txt":
        assert (tmp_path / f"features.npz{suffix}").read_bytes() == (tmp_path / f"whole.npz{suffix}").read_bytes()
    assert not (tmp_path / "features.npz.partial").exists()


def test_ranks_divide_the_work_and_give_the_bytes_of_one(run_ranks, checkpoint, many, tmp_path):
    for ranks in (1, 2):
        arguments = [many, "--checkpoint", checkpoint, "--output", tmp_path / f"{ranks}.npz", *OPTIONS]
        printed = run_ranks(ranks, "-m", "arcface.embed", *arguments).stdout
        assert printed.count(f"{ranks}.npz: 1,089 embeddings of 1,089 images") == 1
    for suffix in "", ".unreadable.txt":
        assert (tmp_path / f"1.npz{suffix}").read_bytes() == (tmp_path / f"2.npz{suffix}").read_bytes()


def test_a_rank_makes_its_own_parts_only(embed, many, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "rank", lambda: 1)
    monkeypatch.setattr(module, "world_size", lambda: 2)
    (tmp_path / "features.npz.partial").mkdir()  # as rank 0 does
    assert embed(many) == ""
    assert [path.name for path in (tmp_path / "features.npz.partial").iterdir()] == ["part_0000001.npz"]


@pytest.mark.parametrize("output", ["features.npz", "features.npy", "features.parquet"])
def test_each_kind_of_file_has_embeddings_paths_and_labels(embed, expected, make_data_set, tmp_path, output):
    data = make_data_set(9, 3)
    if output.endswith("parquet"):
        parquet = pytest.importorskip("pyarrow.parquet")
    assert "9 embeddings of 9 images\n" in embed(data, output)
    paths, labels = [f"images/{number:08d}.jpg" for number in range(9)], [number % 3 for number in range(9)]
    if output.endswith("npz"):
        features = np.load(tmp_path / output)
        found = features["embeddings"], features["paths"].tolist(), features["labels"].tolist()
    elif output.endswith("npy"):
        lists = [(tmp_path / name).read_text().split() for name in ("paths.txt", "labels.txt")]
        found = np.load(tmp_path / output), lists[0], list(map(int, lists[1]))
    else:
        table = parquet.read_table(tmp_path / output)
        found = (np.stack(table["embeddings"].to_numpy()), table["paths"].to_pylist(), table["labels"].to_pylist())
    assert found[0] == pytest.approx(expected(data / path for path in paths), abs=1e-6)
    assert found[1:] == (paths, labels)


def test_lists_datasets_sets_and_single_images_are_sources(embed, expected, make_data_set, tmp_path):
    data = make_data_set(8, 4)
    files = sorted((data / "images").iterdir())
    images = [file.read_bytes() for file in files]
    embeddings = expected(files)
    (tmp_path / "d").mkdir()
    (data / "some.txt").write_text("# a list\nimages/00000003.jpg\n\nimages/00000001.jpg\r\n")
    (tmp_path / "d" / "lfw.bin").write_bytes(pickle.dumps((images, [True, False] * 2)))
    write_records(tmp_path / "d" / "train.rec", ((number // 2, image) for number, image in enumerate(images)))
    for number, (source, rows, labels) in enumerate(
        [
            (data / "some.txt", [3, 1], None),
            (tmp_path / "d" / "lfw.bin", range(8), None),
            (tmp_path / "d", range(8), [0, 0, 1, 1, 2, 2, 3, 3]),
            (files[5], [5], None),
        ]
    ):
        embed(source, f"{number}.npz")
        features = np.load(tmp_path / f"{number}.npz")
        assert features["embeddings"] == pytest.approx(embeddings[list(rows)], abs=1e-6)
        assert len(features["paths"]) == len(rows)
        assert (features["labels"].tolist() if "labels" in features else None) == labels
    assert features["paths"].tolist() == [files[5].name]


def test_mirror_images_are_added_as_in_verification(embed, tiny, checkpoint, make_data_set, tmp_path):
    data = make_data_set(5, 2)
    embed(data, "features.npz", "--flip=1")
    crops = np.stack([arcface.read_image(file) for file in sorted((data / "images").iterdir())])
    with arcface.open_embedder(checkpoint, "Tiny", 8, "paddle", "cpu") as raw:
        both = raw(crops) + raw(np.ascontiguousarray(crops[..., ::-1]))
    assert np.load(tmp_path / "features.npz")["embeddings"] == pytest.approx(
        both / np.linalg.norm(both, axis=1, keepdims=True), abs=1e-6
    )


def test_photos_are_embedded_face_by_face(embed, real_data, tmp_path):
    photo = cv2.imread(str(real_data / "lfw_photos" / "photos" / "Abel_Pacheco" / "Abel_Pacheco_0001.jpg"))
    (tmp_path / "photos").mkdir()
    for name, image in (("one", photo), ("two", np.concatenate([photo, photo[:, ::-1]], axis=1)), ("zero", photo * 0)):
        cv2.imwrite(str(tmp_path / "photos" / f"{name}.png"), image)
    detector = ["--detector", str(real_data / "yunet" / "face_detection_yunet.onnx")]
    for faces, paths in (("largest", ["one.png", "two.png"]), ("all", ["one.png", "two.png", "two.png"])):
        embed(tmp_path / "photos", f"{faces}.npz", *detector, f"--faces={faces}")
        assert np.load(tmp_path / f"{faces}.npz")["paths"].tolist() == paths
        assert (tmp_path / f"{faces}.npz.unreadable.txt").read_text() == "zero.png\tno face found; use a photo that shows one\n"


def test_a_full_disk_is_one_line_and_leaves_no_result(embed, make_data_set, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UserError, match="features.npz: cannot be written .No space left on device.; correct that, then"):
        embed(make_data_set(5, 2))
    assert not os.listdir(tmp_path)


def test_a_name_that_breaks_a_line_is_refused_where_names_are_lines(embed, make_data_set, tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a\nb.jpg", os.fsdecode(b"\xe9.jpg")):
        shutil.copy(make_data_set(1, 1) / "images" / "00000000.jpg", tmp_path / "images" / name)
    with pytest.raises(UserError, match="a line of paths.txt cannot hold such a name; choose an --output that ends in .npz"):
        embed(tmp_path / "images", "features.npy")
    embed(tmp_path / "images")
    assert np.load(tmp_path / "features.npz")["paths"].tolist() == ["a\nb.jpg", os.fsdecode(b"\xe9.jpg")]


@pytest.mark.exhaustive
def test_kills_at_any_moment_lose_nothing(fork_server, start_fork, checkpoint, many, tmp_path):
    def start(output: Path) -> forks.Fork:
        return start_fork("-m", "arcface.embed", many, "--checkpoint", checkpoint, "--output", output, *OPTIONS)

    whole, output = tmp_path / "whole.npz", tmp_path / "killed.npz"
    assert start(whole).wait(120) == 0
    kills = 0
    for milliseconds in np.random.default_rng(0).integers(10, 1500, 12).tolist():
        run = start(output)
        forks.wait_until(lambda: run.poll() is not None or (tmp_path / "killed.npz.partial").exists(), 60)
        time.sleep(milliseconds / 1000)
        kills += run.poll() is None
        run.send_signal(signal.SIGKILL)
        run.wait(30)
        if output.exists():
            assert output.read_bytes() == whole.read_bytes()
            output.unlink()
            output.with_name("killed.npz.unreadable.txt").unlink()
            shutil.rmtree(tmp_path / "killed.npz.partial", ignore_errors=True)
    assert kills
    if not output.exists():
        assert start(output).wait(120) == 0
    assert output.read_bytes() == whole.read_bytes()
