"""Toy pets: the renderer keeps its promises, and the packed set gives the class away by shape only."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import render_toypets as tool
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tlcourse.data import toypets

ROOT = Path(__file__).parents[1]
PACKED = ROOT / "tlcourse" / "data" / "toypets.zip"
COUNTS = {"train": 1000, "val": 200, "test": 800}


@pytest.fixture(scope="module")
def packed() -> dict[str, np.ndarray]:
    """Every packed picture, `(96, 96, 3)` uint8, by its name."""
    with zipfile.ZipFile(PACKED) as archive:
        images = {name: Image.open(io.BytesIO(archive.read(name))) for name in archive.namelist()}
    assert {image.mode for image in images.values()} == {"RGB"}
    return {name: np.asarray(image) for name, image in images.items()}


def difference(a, b) -> int:
    """The largest difference between two uint8 pictures."""
    return int((torch.as_tensor(a).int() - torch.as_tensor(b).int()).abs().max())


def split_of(packed, split) -> tuple[np.ndarray, np.ndarray]:
    names = [name for name in packed if name.startswith(split + "/")]
    return np.stack([packed[name] for name in names]), np.array(["/dogs/" in name for name in names])


def test_a_picture_depends_on_its_seed_and_on_nothing_else() -> None:
    torch.manual_seed(1)
    first = toypets.render([toypets.sample(0, 5), toypets.sample(1, 6), toypets.sample(1, 7)], size=48)
    torch.manual_seed(2)
    alone = toypets.render([toypets.sample(1, 6)], size=48)
    assert first.shape == (3, 3, 48, 48)
    assert first.dtype == torch.uint8
    # One level: another number of threads may round a ray's last bit differently.
    assert difference(first[1], alone[0]) <= 1
    assert difference(first[1], first[2]) > 50


def test_the_class_changes_the_shape_only() -> None:
    cat, dog = toypets.sample(0, 11), toypets.sample(1, 11)
    assert repr(cat.look) == repr(dog.look)  # all numbers, to four digits
    assert repr(cat.scene) == repr(dog.scene)
    assert repr(cat.look) != repr(toypets.sample(0, 12).look)
    assert torch.equal(cat.shape.turn, dog.shape.turn)
    pictures = toypets.render([cat, dog], size=48)
    assert difference(pictures[0], pictures[1]) > 50


def test_the_animal_is_in_the_picture() -> None:
    """Without the animal (its parts far below the floor) a good share of the picture is another."""
    pet = toypets.sample(0, 3)
    with_pet = toypets.render([pet], size=32)[0].float()
    pet.shape.parts.start[:, 1] -= 50
    changed = (with_pet - toypets.render([pet], size=32)[0]).abs().amax(0) > 12
    assert 0.05 < changed.float().mean() < 0.8


def test_nothing_to_render_and_a_wrong_label() -> None:
    assert toypets.render([]).shape == (0, 3, 96, 96)
    with pytest.raises(ValueError, match="not 2"):
        toypets.sample(2, 0)


def test_the_packed_set_is_balanced_complete_and_small(packed) -> None:
    assert PACKED.stat().st_size <= 5_000_000
    expected = {
        f"{split}/{name}/{i:04d}.webp"
        for split, count in COUNTS.items()
        for name in toypets.CLASSES
        for i in range(count // 2)
    }
    assert set(packed) == expected
    assert {image.shape for image in packed.values()} == {(96, 96, 3)}
    assert len({image.tobytes() for image in packed.values()}) == len(packed)


def test_the_packed_set_is_what_the_renderer_makes(packed) -> None:
    rows = tool.members(0, COUNTS)
    assert [name for name, *_ in rows] == sorted(packed)
    assert len({seed for *_, seed in rows}) == len(rows)
    for name, label, seed in rows[3::600]:
        fresh = toypets.render([toypets.sample(label, seed)])[0]
        decoded = np.asarray(Image.open(io.BytesIO(tool.encode(fresh)))).astype(int)
        assert np.abs(decoded - packed[name]).mean() < 1, name  # rounding alone; another picture differs by 30
        assert np.abs(fresh.permute(1, 2, 0).numpy().astype(int) - packed[name]).mean() < 5, name


def joint_colours(images: np.ndarray) -> np.ndarray:
    """A 4 x 4 x 4 colour histogram of each image: `(N, 64)`."""
    bins = (images // 64).astype(np.int64) @ [16, 4, 1]
    return np.stack([np.bincount(b.ravel(), minlength=64) / b.size for b in bins])


def brightness(images: np.ndarray) -> np.ndarray:
    """Mean and spread of each channel, and a luminance histogram of 16 bins: `(N, 22)`."""
    values = images / 255
    grey = values @ [0.299, 0.587, 0.114]
    histograms = np.stack([np.histogram(g, 16, (0, 1))[0] / g.size for g in grey])
    return np.concatenate([values.mean((1, 2)), values.std((1, 2)), histograms], axis=1)


def thumbnails(images: np.ndarray) -> np.ndarray:
    """16 x 16 raw pixels: `(N, 768)`."""
    return images.reshape(-1, 16, 6, 16, 6, 3).mean((2, 4)).reshape(len(images), -1)


@pytest.mark.parametrize(
    ("describe", "strength", "limit"), [(joint_colours, 0.01, 0.57), (brightness, 1.0, 0.57), (thumbnails, 1e-4, 0.62)]
)
def test_the_class_cannot_be_read_from_colour_brightness_or_layout(packed, describe, strength, limit) -> None:
    (train, train_labels), (test, test_labels) = split_of(packed, "train"), split_of(packed, "test")
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
    accuracy = model.fit(describe(train), train_labels).score(describe(test), test_labels)
    assert 0.43 <= accuracy <= limit


def test_the_same_arguments_pack_the_same_bytes(tmp_path, capsys) -> None:
    threads = torch.get_num_threads()
    sizes = ["--train", "4", "--val", "2", "--test", "2"]
    try:
        for name in ("a.zip", "b.zip"):
            tool.main(["--out", str(tmp_path / name), *sizes])
        tool.main(["--out", str(tmp_path / "c.zip"), "--seed", "1", *sizes])
    finally:
        torch.set_num_threads(threads)
    a, b, c = ((tmp_path / name).read_bytes() for name in ("a.zip", "b.zip", "c.zip"))
    assert a == b != c
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip", "b.zip", "c.zip"}
    assert "8 pictures" in capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_a_failed_run_leaves_the_old_set_alone(tmp_path, monkeypatch) -> None:
    out = tmp_path / "set.zip"
    out.write_bytes(b"old")
    monkeypatch.setattr(tool, "encode", lambda picture: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tool.pack(out, tool.members(0, {"train": 2}))
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip"]
    assert out.read_bytes() == b"old"


def test_sets_that_cannot_be_balanced_are_refused() -> None:
    with pytest.raises(ValueError, match="'val': 3"):
        tool.members(0, {"train": 2, "val": 3})
    with pytest.raises(ValueError, match="too many"):
        tool.members(0, {"train": 1_000_002})
