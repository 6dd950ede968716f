"""Copies of images: found when re-encoded, resized, brightened or mirrored; different images are left alone."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from tlcourse import data
from tlcourse.data import duplicates, find_duplicates


@pytest.fixture(scope="module")
def images():
    """Forty toy pets as PIL images."""
    pets = data.load("toypets").test
    return [pets.raw(index) for index in range(0, 320, 8)]


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
def test_changed_copies_are_found(images, change):
    train, copies = [array(p) for p in images], [array(change(p)) for p in images[::4]]
    pairs = find_duplicates({"train": train, "val": copies})
    found = {pair.second[1]: pair.first[1] for pair in pairs}
    right = [i for i in range(len(copies)) if found.get(i) == 4 * i]
    assert len(right) >= 0.9 * len(copies)
    assert all(found[i] == 4 * i for i in found)
    assert not any(pair.exact for pair in pairs)


def test_exact_copies_come_first(images):
    train = [array(p) for p in images]
    val = [array(jpeg(images[3], 50)), train[7].copy()]
    first, second = find_duplicates({"train": train, "val": val})
    assert (first.first, first.second, first.exact, first.correlation) == (("train", 7), ("val", 1), True, 1.0)
    assert (second.first, second.second, second.exact) == (("train", 3), ("val", 0), False)
    assert duplicates.ALIKE < second.correlation < 1


def test_different_images_are_left_alone():
    assert find_duplicates(data.load("toypets").take(120, 60, 60), within=True) == []


def test_small_images_count_as_copies_only_where_every_pixel_is_the_same():
    digits = data.load("digits")
    assert find_duplicates(digits, within=True) == []
    image = np.asarray(digits.train.sources[0])
    (pair,) = find_duplicates({"train": [image], "val": [image.copy(), np.roll(image, 1)]})
    assert pair.exact


def test_empty_images_are_no_copies_of_each_other():
    grey, white = np.full((64, 64, 3), 128, np.uint8), np.full((64, 64, 3), 250, np.uint8)
    nearly = grey.copy()
    nearly[0, 0] = 129
    assert find_duplicates({"a": [grey, nearly], "b": [white]}, within=True) == []


def test_files_are_compared_by_bytes_and_by_sight(images, tmp_path):
    one, other = tmp_path / "one.png", tmp_path / "other.jpg"
    images[0].convert("RGB").save(one)
    images[0].convert("RGB").save(other, quality=70)
    again = tmp_path / "again.png"
    again.write_bytes(one.read_bytes())
    pairs = find_duplicates({"train": [one], "val": [other, str(again)]})
    assert [(pair.second[1], pair.exact) for pair in pairs] == [(1, True)]
    assert [pair.exact for pair in find_duplicates({"train": [one], "val": [other]})] == [False]


def test_within_a_part_each_pair_is_reported_once(images):
    arrays = [array(p) for p in images[:6]]
    arrays += [arrays[2].copy(), array(ImageOps.mirror(images[4]))]
    pairs = find_duplicates({"all": arrays}, within=True)
    assert [(pair.first[1], pair.second[1], pair.exact) for pair in pairs] == [(2, 6, True), (4, 7, False)]
    assert find_duplicates({"all": arrays}) == []


def test_normalised_tensors_are_compared_too(images):
    tensors = torch.stack([torch.from_numpy(array(p)).permute(2, 0, 1).float() / 255 for p in images[:8]])
    normalised = (tensors - 0.45) / 0.22
    pairs = find_duplicates({"train": list(tensors), "val": [normalised[5], tensors[2]]})
    assert [(pair.first[1], pair.exact) for pair in pairs] == [(2, True), (5, False)]


@pytest.mark.parametrize("within", [False, True])
def test_large_sets_are_compared_in_pieces(images, monkeypatch, within):
    copies = [array(jpeg(p, 60)) for p in images]
    parts = {"train": [array(p) for p in images[:30]] + copies[17:20], "val": copies[25:]}
    whole = find_duplicates(parts, within=within)
    monkeypatch.setattr(duplicates, "CHUNK", 7)
    assert find_duplicates(parts, within=within) == whole
    found = {(pair.first, pair.second) for pair in whole}
    assert {(("train", 25 + i), ("val", i)) for i in range(5)} <= found, "rows of the fourth piece and the fifth"
    assert not within or {(("train", 17 + i), ("train", 30 + i)) for i in range(3)} <= found


def test_positions_beyond_the_first_piece():
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(40, duplicates.SIDE, duplicates.SIDE)))
    # Blocks that the coarse comparison can tell apart, and a different digest for each image.
    thumbnails = noise[:, ::8, ::8].repeat_interleave(8, 1).repeat_interleave(8, 2).float()
    thumbnails = (thumbnails - thumbnails.mean((1, 2), keepdim=True)) / thumbnails.std((1, 2), keepdim=True)
    rest = torch.full((duplicates.CHUNK, duplicates.SIDE, duplicates.SIDE), torch.nan)
    rest[:, :, ::2], rest[:, :, 1::2] = 1.0, -1.0  # stripes, which the coarse comparison does not see
    many = torch.cat([rest, thumbnails])
    first = duplicates.Signatures([bytes([0, i % 256, i // 256]) for i in range(len(many))], many)
    second = duplicates.Signatures([bytes([1, i]) for i in range(40)], thumbnails.flip(0, 2))
    pairs = find_duplicates({"train": first, "val": second})
    expected = {(duplicates.CHUNK + i, 39 - i) for i in range(40)}
    assert {(pair.first[1], pair.second[1]) for pair in pairs} == expected


def test_generated_images_and_members_of_a_zip_are_compared_too():
    drawn = data.synthetic_images("surfaces", 8)
    pairs = find_duplicates({"train": drawn, "val": drawn.subset([5])})
    assert [(pair.first, pair.second, pair.exact) for pair in pairs] == [(("train", 5), ("val", 0), True)]
    pets = data.load("toypets").test
    pairs = find_duplicates({"train": pets.subset(range(8)), "val": pets.subset([3])})
    assert [(pair.first, pair.second, pair.exact) for pair in pairs] == [(("train", 3), ("val", 0), True)]


def test_items_that_are_no_images_count_as_copies_only_where_they_are_the_same():
    vectors = torch.rand(3, 40)
    (pair,) = find_duplicates({"train": list(vectors), "val": [vectors[1]]})
    assert (pair.first, pair.exact) == (("train", 1), True)


def test_a_turned_file_and_its_upright_copy(images, tmp_path):
    upright = images[0].convert("RGB").resize((400, 300))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    upright.rotate(90, expand=True).save(tmp_path / "turned.jpg", exif=exif)
    upright.save(tmp_path / "upright.jpg", quality=60)
    (pair,) = find_duplicates({"train": [tmp_path / "turned.jpg"], "val": [tmp_path / "upright.jpg"]})
    assert not pair.exact


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"bad\.png"):
        find_duplicates({"train": [tmp_path / "bad.png"], "val": []})


@pytest.mark.real
@pytest.mark.parametrize(("name", "copies"), [("hymenoptera_data", 0), ("dogs-vs-cats", 1)])
def test_real_images(real_data, name, copies):
    parts = {part.name: sorted(part.rglob("*.jpg")) for part in (real_data / name).iterdir() if part.is_dir()}
    pairs = find_duplicates(parts, within=True)
    assert len(pairs) == copies, pairs
