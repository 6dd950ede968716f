"""Copies of pictures: found when re-encoded, resized, brightened or mirrored; different pictures are left alone."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from tlcourse import data
from tlcourse.data import duplicates, find_duplicates


@pytest.fixture(scope="module")
def pictures():
    """Forty toy pets as PIL images."""
    images = data.load("toypets").test
    return [images.raw(index) for index in range(0, 320, 8)]


def array(image):
    return np.asarray(image.convert("RGB")).copy()


def jpeg(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


CHANGES = {
    "re-encoded": lambda image: jpeg(image, 40),
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "twice the size": lambda image: image.resize((2 * image.width, 2 * image.height)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.7),
    "in grey": lambda image: ImageOps.grayscale(image).convert("RGB"),
    "mirrored": ImageOps.mirror,
    "mirrored, small and re-encoded": lambda image: jpeg(ImageOps.mirror(image).resize((64, 64)), 60),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_copies_are_found(pictures, change):
    train, copies = [array(p) for p in pictures], [array(change(p)) for p in pictures[::4]]
    pairs = find_duplicates({"train": train, "val": copies})
    found = {pair.second[1]: pair.first[1] for pair in pairs}
    right = [i for i in range(len(copies)) if found.get(i) == 4 * i]
    assert len(right) >= 0.9 * len(copies)
    assert all(found[i] == 4 * i for i in found)
    assert not any(pair.exact for pair in pairs)


def test_exact_copies_come_first(pictures):
    train = [array(p) for p in pictures]
    val = [array(jpeg(pictures[3], 50)), train[7].copy()]
    first, second = find_duplicates({"train": train, "val": val})
    assert (first.first, first.second, first.exact, first.correlation) == (("train", 7), ("val", 1), True, 1.0)
    assert (second.first, second.second, second.exact) == (("train", 3), ("val", 0), False)
    assert duplicates.ALIKE < second.correlation < 1


def test_different_pictures_are_left_alone():
    assert find_duplicates(data.load("toypets").take(120, 60, 60), within=True) == []


def test_small_pictures_count_as_copies_only_where_every_pixel_is_the_same():
    digits = data.load("digits")
    assert find_duplicates(digits, within=True) == []
    image = np.asarray(digits.train.sources[0])
    (pair,) = find_duplicates({"train": [image], "val": [image.copy(), np.roll(image, 1)]})
    assert pair.exact


def test_empty_pages_are_no_copies_of_each_other():
    grey, white = np.full((64, 64, 3), 128, np.uint8), np.full((64, 64, 3), 250, np.uint8)
    nearly = grey.copy()
    nearly[0, 0] = 129
    assert find_duplicates({"a": [grey, nearly], "b": [white]}, within=True) == []


def test_files_are_compared_by_bytes_and_by_sight(pictures, tmp_path):
    one, other = tmp_path / "one.png", tmp_path / "other.jpg"
    pictures[0].convert("RGB").save(one)
    pictures[0].convert("RGB").save(other, quality=70)
    again = tmp_path / "again.png"
    again.write_bytes(one.read_bytes())
    pairs = find_duplicates({"train": [one], "val": [other, str(again)]})
    assert [(pair.second[1], pair.exact) for pair in pairs] == [(1, True)]
    assert [pair.exact for pair in find_duplicates({"train": [one], "val": [other]})] == [False]


def test_within_a_part_each_pair_is_told_once(pictures):
    images = [array(p) for p in pictures[:6]]
    images += [images[2].copy(), array(ImageOps.mirror(pictures[4]))]
    pairs = find_duplicates({"all": images}, within=True)
    assert [(pair.first[1], pair.second[1], pair.exact) for pair in pairs] == [(2, 6, True), (4, 7, False)]
    assert find_duplicates({"all": images}) == []


def test_normalised_tensors_are_compared_too(pictures):
    images = torch.stack([torch.from_numpy(array(p)).permute(2, 0, 1).float() / 255 for p in pictures[:8]])
    normalised = (images - 0.45) / 0.22
    pairs = find_duplicates({"train": list(images), "val": [normalised[5], images[2]]})
    assert [(pair.first[1], pair.exact) for pair in pairs] == [(2, True), (5, False)]


def test_large_sets_are_compared_in_pieces(pictures, monkeypatch):
    images = [array(p) for p in pictures]
    whole = find_duplicates({"train": images, "val": images[::-1]})
    monkeypatch.setattr(duplicates, "CHUNK", 7)
    assert find_duplicates({"train": images, "val": images[::-1]}) == whole
    assert len(whole) == len(images)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"bad\.png"):
        find_duplicates({"train": [tmp_path / "bad.png"], "val": []})


@pytest.mark.real
@pytest.mark.parametrize(("name", "copies"), [("hymenoptera_data", 0), ("dogs-vs-cats", 1)])
def test_real_photos(real_data, name, copies):
    parts = {part.name: sorted(part.rglob("*.jpg")) for part in (real_data / name).iterdir() if part.is_dir()}
    pairs = find_duplicates(parts, within=True)
    assert len(pairs) == copies, pairs
