"""Images decoded once, augmentation from a table of random numbers, batches divided among processes."""

import gc
import os
import random
import shutil
import threading
import time
import weakref
import zipfile
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, TensorDataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from tlcourse import data, runtime
from tlcourse.data.loading import augmentation, make_loader, pixel_cache
from tlcourse.data.loading.augmentation import (
    ANGLE,
    COLUMNS,
    FLIP,
    ORDER,
    crop_box,
    random_crop,
    split_transform,
    transform_batch,
)
from tlcourse.data.loading.loader import PixelLoader
from tlcourse.data.loading.shard import shard_loader
from tlcourse.data.reading import Generated, ZipMember
from tlcourse.preprocessing import Preprocessing

SMALL = Preprocessing(16, 20)
ORDER_OF_SEED_3 = [[2, 4, 3], [5, 1, 0], [6, 7]]
CROPS_OF_SEED_3 = [  # top, left, height and width of each image's crop
    *((0, 3, 19, 16), (0, 2, 26, 24), (1, 10, 27, 21), (3, 10, 25, 29)),
    *((2, 0, 31, 35), (3, 19, 25, 19), (0, 14, 31, 34), (4, 11, 22, 18)),
]
STRONG = {"scale": (0.3, 1.0), "rotation": 30, "colour": 0.4}


@pytest.fixture(autouse=True)
def mini(monkeypatch, tmp_path):
    monkeypatch.setenv("TLCOURSE_PROFILE", "mini")
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(runtime, "_current", None)
    monkeypatch.setattr(pixel_cache, "remembered", type(pixel_cache.remembered)())


@pytest.fixture
def in_files(monkeypatch, tmp_path):
    """No set is small: all go into files. Returns their folder."""
    monkeypatch.setattr(pixel_cache, "MAX_IN_MEMORY", 0)
    return tmp_path / "cache" / "pixels"


@pytest.fixture
def decoded(monkeypatch):
    """Counts how often each image is decoded."""
    counts = Counter()

    def count(self, index):
        counts[index] += 1
        return self.keep_raw(index)

    monkeypatch.setattr(data.ImageSet, "keep_raw", data.ImageSet.raw, raising=False)
    monkeypatch.setattr(data.ImageSet, "raw", count)
    return counts


def random_image(height, width, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def image_set(count=23, side=30, transform=None):
    """Images of different shapes; image `i` has label `i`, so that it can be told in a batch."""
    images = [np.asarray(random_image(side + i % 5, side + 3 * (i % 7), i)) for i in range(count)]
    return data.ImageSet(images, range(count), [str(i) for i in range(count)], transform)


def splits(count=23, augmentation=STRONG, preprocessing=SMALL):
    images = image_set(count)
    return data.Splits("test", images, images, images, images.classes, preprocessing, augmentation=augmentation)


def by_label(loader):
    return {int(label): image for images, labels in loader for image, label in zip(images, labels, strict=True)}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture
def odd_files(tmp_path):
    """Files of every shape and mode that a folder may hold."""
    folder = tmp_path / "odd"
    folder.mkdir()
    images = {
        "grey.png": random_image(40, 50).convert("L"),
        "clear.png": Image.new("RGBA", (40, 30), (200, 0, 0, 90)),
        "palette.gif": random_image(40, 50).quantize(16),
        "line.png": random_image(1, 300),
        "column.png": random_image(300, 1),
        "dot.png": Image.new("RGB", (1, 1), "red"),
        "tiny.png": random_image(5, 7),
        "panorama.png": random_image(20, 900),
        "large.jpg": random_image(90, 120),
    }
    for name, image in images.items():
        image.save(folder / name)
    paths = sorted(folder.iterdir())
    return data.ImageSet(paths, range(len(paths)), [path.name for path in paths], root=folder)


# Evaluation


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_evaluation_is_to_the_bit_what_the_transform_gives(odd_files, interpolation, squash):
    preprocessing = Preprocessing(16, 21, (0.3, 0.5, 0.7), (0.2, 0.1, 0.3), interpolation, squash)
    parts = data.Splits("odd", odd_files, odd_files, odd_files, odd_files.classes, preprocessing)
    loaders = parts.loaders(5)
    for part, loader in zip((parts.train, parts.val), loaders, strict=False):
        assert isinstance(loader, PixelLoader)
        assert same(by_label(loader), dict(enumerate(image for image, _ in part)))
    images, labels = next(iter(loaders.val))
    assert (images.dtype, labels.dtype) == (torch.float32, torch.long)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images.shape == (9, 3, 16, 16)


def test_loaders_still_look_like_dataloaders():
    parts = splits()
    train, val, _ = parts.loaders(4)
    assert isinstance(train, DataLoader)
    assert train.dataset is parts.train
    assert isinstance(train.sampler, torch.utils.data.RandomSampler)
    assert (train.batch_size, val.batch_size, len(train), len(val)) == (4, 8, 6, 3)
    torch.testing.assert_close(train.collate_fn([val.dataset[3]])[0][0], by_label(val)[3])
    # A loader of one's own on the same data set reads it as ever.
    assert same(by_label(DataLoader(val.dataset, 4, num_workers=1)), by_label(val))


# Which transforms are read


@pytest.mark.parametrize("augmentation", [{}, {"flip": False}, {"rotation": 10}, {"colour": 0.1}, STRONG])
def test_our_transforms_are_read(augmentation):
    split = split_transform(SMALL.training(**augmentation))
    assert split.size == 16
    assert (split.flip is None) == (not augmentation.get("flip", True))
    assert (split.rotation is None) == ("rotation" not in augmentation)
    assert (split.jitter is None) == ("colour" not in augmentation)
    assert split_transform(SMALL.evaluation()).crop is None


def ours(*steps):
    return v2.Compose([*steps, *SMALL.evaluation().transforms[-3:]])


@pytest.mark.parametrize(
    "transform",
    [
        None,
        lambda image: 0,
        v2.Compose([v2.CenterCrop(16), v2.ToImage()]),
        v2.Compose([SMALL.evaluation(), v2.GaussianNoise()]),
        ours(v2.Resize(20), v2.CenterCrop((16, 12))),
        ours(v2.Resize(20), v2.RandomCrop(16)),
        ours(v2.RandomHorizontalFlip(), v2.RandomResizedCrop(16)),
        ours(v2.RandomResizedCrop(16), v2.ColorJitter(hue=0.1)),
        ours(v2.RandomResizedCrop(16), v2.RandomGrayscale()),
        ours(v2.RandomResizedCrop(16), v2.RandomRotation(10)),
        ours(v2.RandomResizedCrop((16, 12))),
        v2.Compose(
            [*SMALL.evaluation().transforms[:-2], v2.ToDtype(torch.float64, scale=True), v2.Normalize([0], [1])]
        ),
    ],
)
def test_other_transforms_are_left_to_pytorch(transform):
    assert split_transform(transform) is None
    own = replace(splits(), train=image_set(transform=transform or v2.Compose([v2.CenterCrop(9), v2.ToImage()])))
    loader = own.loaders(4, workers=0).train
    assert type(loader) is DataLoader


@pytest.mark.parametrize("transform", [ours(v2.RandomResizedCrop(16), v2.RandomErasing()), lambda image: 0])
def test_a_printed_line_says_that_a_transform_is_not_recognised(transform, capsys):
    own = replace(splits(), train=image_set(transform=transform))
    assert capsys.readouterr().out == ""
    own.loaders(4)
    (line,) = capsys.readouterr().out.splitlines()
    names = "<lambda>" if isinstance(transform, type(ours)) else "RandomResizedCrop, RandomErasing, ToImage, ToDtype"
    assert line.startswith(f"23 images have a transform that Preprocessing did not make ({names}")
    assert "decoded in every epoch and stays on the CPU" in line
    assert "the options of Preprocessing.training" in line


def test_nothing_is_printed_about_our_transforms_or_about_none(capsys):
    splits().loaders(4)
    splits().plain().loaders(4)
    loader = make_loader(image_set(), 4, collate_fn=lambda items: len(items), workers=0)
    assert list(loader) == [4, 4, 4, 4, 4, 3]
    assert capsys.readouterr().out == ""


# Augmentation


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.6, 1.0), (0.9, 1.0)])
@pytest.mark.parametrize(("height", "width"), [(90, 90), (60, 100), (300, 40)])
def test_crops_follow_torchvisions_law(height, width, scale):
    n = 1500
    torch.manual_seed(0)
    crop = v2.RandomResizedCrop(16, scale=scale)
    image = torch.empty(3, height, width, dtype=torch.uint8)
    theirs = [tuple(crop.make_params([image]).values()) for _ in range(n)]
    rows = torch.rand(n, COLUMNS, generator=torch.Generator().manual_seed(1)).tolist()
    mine = [crop_box(row, height, width, scale, (3 / 4, 4 / 3)) for row in rows]
    assert all(0 <= t <= t + h <= height and 0 <= left <= left + w <= width for t, left, h, w in mine)
    for column in range(4):
        assert ks_2samp([box[column] for box in mine], [box[column] for box in theirs]).pvalue > 1e-4
    shapes = [[box[2] / box[3] for box in boxes] for boxes in (mine, theirs)]
    assert ks_2samp(*shapes).pvalue > 1e-4


@pytest.mark.parametrize(("height", "width"), [(50, 50), (30, 90), (90, 30), (1, 400), (1, 1)])
def test_where_no_crop_fits_it_is_torchvisions_central_one(height, width):
    crop = v2.RandomResizedCrop(16, scale=(1.5, 1.5))
    theirs = crop.make_params([torch.empty(3, height, width)])
    mine = crop_box([0.5] * COLUMNS, height, width, (1.5, 1.5), (3 / 4, 4 / 3))
    assert mine == tuple(theirs[name] for name in ("top", "left", "height", "width"))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(("height", "width"), [(60, 80), (9, 12), (1, 30)])
def test_a_crop_is_resized_as_torchvision_does(interpolation, height, width):
    split = split_transform(Preprocessing(16, 20, interpolation=interpolation).training())
    image = np.asarray(random_image(height, width))
    rows = torch.rand(20, COLUMNS, generator=torch.Generator().manual_seed(0))
    for row in rows.tolist():
        box = crop_box(row, height, width, split.crop.scale, split.crop.ratio)
        expected = np.asarray(tv.resized_crop(Image.fromarray(image), *box, [16, 16], split.crop.interpolation)).astype(
            int
        )
        if row[FLIP] < 0.5:
            expected = expected[:, ::-1]
        out = random_crop(image, row, split).astype(int)
        # Two implementations round differently; Pillow rounds between the two directions too.
        assert abs(out - expected).max() <= 2
    assert 0 < (rows[:, FLIP] < 0.5).sum() < 20


def test_a_crop_keeps_the_order_in_which_images_are_stored():
    """Channels last: PyTorch resizes that several times faster, and normalising would copy anything else."""
    image, row = np.asarray(random_image(60, 80)), [0.5] * COLUMNS
    for flip in (False, True):
        assert random_crop(image, row, split_transform(SMALL.training(flip=flip))).flags.c_contiguous


def test_rotation_is_torchvisions():
    split = split_transform(SMALL.training(rotation=40))
    batch = torch.from_numpy(np.stack([np.asarray(random_image(16, 16, seed)) for seed in range(6)]))
    rows = torch.rand(6, COLUMNS, generator=torch.Generator().manual_seed(0))
    images = SMALL.undo(transform_batch(batch, rows, split))
    fill = [value / 255 for value in split.rotation.fill]
    for image, crop, row in zip(images, batch, rows, strict=True):
        plain = tv.to_dtype(crop.permute(2, 0, 1), scale=True)
        turned = tv.rotate(plain, -40 + 80 * float(row[ANGLE]), v2.InterpolationMode.BILINEAR, fill=fill)
        # Where image and corner meet, torchvision mixes in the fill colour twice.
        inside = tv.rotate(torch.ones(1, 16, 16), -40 + 80 * float(row[ANGLE]), v2.InterpolationMode.BILINEAR)
        sure = ((inside < 0.001) | (inside > 0.999)).expand(3, -1, -1)
        assert sure.float().mean() > 0.8
        torch.testing.assert_close(image[sure], turned[sure], atol=1e-4, rtol=0)


def test_colours_change_as_torchvisions_do():
    split = split_transform(SMALL.training(colour=0.5))
    batch = torch.from_numpy(np.stack([np.asarray(random_image(16, 16, seed)) for seed in range(24)]))
    rows = torch.rand(24, COLUMNS, generator=torch.Generator().manual_seed(0))
    rows[:, ORDER] = (torch.arange(24) % 6 + 0.5) / 6  # every order
    images = SMALL.undo(transform_batch(batch, rows, split))
    changes = [tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation]
    seen, orders = set(), {(a, b, c) for a in range(3) for b in range(3) for c in range(3) if len({a, b, c}) == 3}
    for image, original, row in zip(images, batch, rows, strict=True):
        factors = (0.5 + row[ANGLE + 1 : ANGLE + 4]).tolist()
        fits = set()
        for order in orders:
            expected = tv.to_dtype(original.permute(2, 0, 1), scale=True)
            for kind in order:
                expected = changes[kind](expected, factors[kind])
            if torch.allclose(image, expected, atol=1e-4):
                fits.add(order)
        assert fits
        seen |= fits if len(fits) == 1 else set()
    assert seen == orders, "images whose order can be told have every order"


def test_all_in_all_the_images_are_spread_as_torchvisions():
    larger, n = Preprocessing(48, 56), 400
    image = np.asarray(random_image(160, 220, 3))
    images = data.ImageSet([image] * n, [0] * n, ["a"], larger.training(scale=(0.3, 1.0), rotation=15, colour=0.4))
    torch.manual_seed(0)
    theirs = torch.stack([images[i][0] for i in range(n)])
    part = data.Splits("one", images, images, images, ["a"], larger)
    mine = torch.cat([batch for batch, _ in part.loaders(100).train])
    error = theirs.std(0) / (n / 2) ** 0.5
    assert ((mine.mean(0) - theirs.mean(0)).abs() / error).quantile(0.95) < 3
    assert (mine.std(0) / theirs.std(0)).sub(1).abs().quantile(0.95) < 0.15
    for share in (5, 50, 95):
        assert np.percentile(mine, share) == pytest.approx(np.percentile(theirs, share), abs=0.15)


def test_a_crop_is_as_sharp_as_one_of_the_original():
    def energy(image):
        grey = np.asarray(image, dtype=float).mean(2)
        return (np.diff(grey, axis=0) ** 2).mean() + (np.diff(grey, axis=1) ** 2).mean()

    split = split_transform(Preprocessing(48, 56).training())
    grain = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    small = np.asarray(split.once(Image.fromarray(grain)))
    assert small.shape == (72, 96, 3)
    ratios = []
    for row in torch.rand(20, COLUMNS, generator=torch.Generator().manual_seed(0)).tolist():
        box = crop_box(row, 300, 400, split.crop.scale, split.crop.ratio)
        direct = tv.resized_crop(Image.fromarray(grain), *box, [48, 48])
        ratios.append(energy(random_crop(small, row, split)) / energy(direct))
    assert 0.85 < np.mean(ratios) < 1.15


def test_large_images_are_kept_no_larger_than_crops_need():
    once = split_transform(Preprocessing(128, 146).training(scale=(0.6, 1))).once
    assert once(random_image(400, 600)).size == (286, 191)
    assert once(random_image(100, 300)).size == (300, 100), "never enlarged"
    assert once(random_image(1, 500)).size == (500, 1)
    assert split_transform(SMALL.training(scale=(0, 1))).once(random_image(400, 600)).size == (600, 400)
    nearest = split_transform(Preprocessing(16, 20, interpolation="nearest").training())
    assert nearest.once(random_image(400, 600)).size == (600, 400), "nearest shows pixels of the original"


def test_transforming_a_batch_never_waits_for_the_device():
    rows = torch.rand(5, COLUMNS)
    batch = torch.empty(5, 16, 16, 3, dtype=torch.uint8, device="meta")  # has no values: reading one is an error
    images = transform_batch(batch, rows, split_transform(SMALL.training(**STRONG)))
    assert images.shape == (5, 3, 16, 16)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_a_device_gets_its_batches_ahead_of_time(monkeypatch):
    parts = splits()
    expected = [labels.tolist() for _, labels in parts.loaders(4).train]
    monkeypatch.setattr(runtime, "_current", replace(runtime.get_runtime(), device=torch.device("meta")))
    batches = list(parts.loaders(4).train)
    assert [labels.tolist() for _, labels in batches] == expected
    assert {images.device.type for images, _ in batches} == {"meta"}
    assert {labels.device.type for _, labels in batches} == {"cpu"}


@pytest.mark.parametrize(("device", "ahead"), [("cpu", 0), ("meta", 2)])
def test_batches_are_not_prepared_further_ahead_than_that(device, ahead, monkeypatch):
    started = []
    start = PixelLoader._start
    monkeypatch.setattr(PixelLoader, "_start", lambda *args: started.append(args[1]) or start(*args))
    monkeypatch.setattr(runtime, "_current", replace(runtime.get_runtime(), device=torch.device(device)))
    loader = splits().loaders(2).train
    for number, _ in enumerate(loader, start=1):
        assert len(started) == min(number + ahead, len(loader))


# What decides


@pytest.mark.parametrize("workers", [0, 2])
def test_a_generators_state_brings_the_same_epoch_again(workers):
    loader = splits().loaders(4, seed=3, workers=workers).train
    list(loader)
    state = loader.generator.get_state()
    first = [list(loader) for _ in range(2)]
    torch.manual_seed(9)
    loader.generator.set_state(state)
    again = [list(loader) for _ in range(2)]
    for one, other in zip(first[0] + first[1], again[0] + again[1], strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    assert not torch.equal(first[0][0][0], first[1][0][0])
    assert [labels.tolist() for _, labels in first[0]] != [labels.tolist() for _, labels in first[1]]


@pytest.mark.parametrize("workers", [0, 2])
def test_everything_of_an_epoch_is_drawn_when_it_starts(workers):
    loader = splits().loaders(4, workers=workers).train
    batches = iter(loader)
    state = loader.generator.get_state()
    next(batches)
    assert torch.equal(loader.generator.get_state(), state)
    list(batches)
    assert torch.equal(loader.generator.get_state(), state)


def test_augmentation_depends_on_seed_and_image_alone():
    parts = splits()
    runs = [by_label(parts.loaders(size, workers=n).train) for size, n in [(4, 0), (4, 1), (9, 3), (23, 2)]]
    assert all(same(run, runs[0]) for run in runs)
    torch.manual_seed(5)
    assert same(by_label(parts.loaders(4).train), runs[0])
    other = by_label(parts.loaders(4, seed=1).train)
    assert not any(torch.equal(other[label], runs[0][label]) for label in other)


def test_a_seed_gives_the_same_order_and_the_same_crops_as_ever(monkeypatch):
    """Measurements were made with these: a version that draws otherwise makes other numbers."""
    boxes = {}

    def box(row, height, width, scale, ratio):
        boxes[height, width] = crop_box(row, height, width, scale, ratio)
        return boxes[height, width]

    monkeypatch.setattr(augmentation, "crop_box", box)
    loader = splits(8).loaders(3, seed=3).train
    assert [labels.tolist() for _, labels in loader] == ORDER_OF_SEED_3
    assert [boxes[30 + i % 5, 30 + 3 * (i % 7)] for i in range(8)] == CROPS_OF_SEED_3


def test_nothing_draws_from_the_global_numbers():
    def states():
        return torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()

    parts = splits()
    before = states()
    for loader in parts.loaders(4):
        list(loader)
    after = states()
    assert torch.equal(before[0], after[0])
    assert (before[1] == after[1]).all()
    assert before[2] == after[2]


def test_evaluation_draws_nothing_at_all():
    loader = splits().loaders(4).val
    state = loader.generator.get_state()
    list(loader)
    assert torch.equal(loader.generator.get_state(), state)


def test_an_epoch_left_early_leaves_no_thread_behind():
    threads = threading.active_count()
    batches = iter(splits().loaders(4, workers=2).train)
    next(batches)
    batches.close()
    assert threading.active_count() == threads


# The pixels


def test_every_image_is_decoded_once(decoded):
    parts = splits()
    for seed in range(2):
        loaders = parts.loaders(4, seed=seed)
        for _ in range(3):
            list(loaders.train)
            list(loaders.val)
    assert set(decoded.values()) == {2}, "once whole for crops, once the centre for evaluation"
    assert len(decoded) == 23


def test_subsets_and_noisy_labels(decoded):
    parts = splits().take(train=23)
    whole = by_label(parts.loaders(4, seed=2).val)
    part = parts.val.subset([20, 3, 11])
    taken = replace(parts, val=part)
    assert same(by_label(taken.loaders(4).val), {label: whole[label] for label in (20, 3, 11)})
    noisy = replace(parts, train=parts.train.relabelled(parts.train.labels.flip(0)))
    before = decoded.total()
    assert noisy.plain().loaders(4).train.dataset.labels[0] == 22
    images, labels = next(iter(noisy.loaders(4, seed=2).train))
    assert decoded.total() == before + 23
    list(parts.loaders(4).train)
    assert decoded.total() == before + 23, "labels do not belong to the pixels"
    assert torch.equal(images, next(iter(parts.loaders(4, seed=2).train))[0])
    assert torch.equal(22 - labels, next(iter(parts.loaders(4, seed=2).train))[1])


def test_generated_images_are_drawn_once_each(in_files):
    drawn = Counter()

    def make(label, seed):
        drawn[seed] += 1
        return np.full((30, 30, 3), seed, np.uint8)

    images = data.ImageSet([Generated(make, "a", seed) for seed in range(5)], [0] * 5, ["a"])
    parts = data.Splits("drawn", images, images, images, ["a"], SMALL)
    for _ in range(3):
        batch, _ = next(iter(parts.loaders(8).val))
    torch.testing.assert_close(SMALL.undo(batch)[:, 0, 0, 0], torch.arange(5) / 255)
    assert set(drawn.values()) == {1}
    assert not in_files.exists(), "their key would need them drawn"


def test_what_draws_remembered_images_stays_alive():
    """Their key holds its address, which another function would get."""

    def make(label, seed):
        return np.full((30, 30, 3), seed, np.uint8)

    def read(make):
        images = data.ImageSet([Generated(make, "a", seed) for seed in range(5)], [0] * 5, ["a"])
        list(data.Splits("drawn", images, images, images, ["a"], SMALL).loaders(8).val)

    read(make)
    alive = weakref.ref(make)
    del make
    gc.collect()
    assert alive() is not None
    pixel_cache.remembered.clear()
    gc.collect()
    assert alive() is None, "nothing else keeps it"


def test_generated_images_that_fill_the_memory_are_drawn_each_time(monkeypatch):
    monkeypatch.setattr(pixel_cache, "MAX_GENERATED", 1000)

    def make(label, seed):
        return np.full((30, 30, 3), seed, np.uint8)

    images = data.ImageSet([Generated(make, "a", seed) for seed in range(5)], range(5), list("abcde"))
    parts = data.Splits("drawn", images, images, images, images.classes, SMALL)
    with pytest.warns(UserWarning, match="no room in memory. Every epoch decodes them again"):
        assert same(by_label(parts.loaders(8).val), dict(enumerate(image for image, _ in parts.val)))


def test_decoding_does_not_run_ahead_of_writing(monkeypatch, decoded):
    monkeypatch.setattr(runtime, "cores", lambda: 2)
    arrays = pixel_cache._decode(image_set(), split_transform(SMALL.evaluation()).once)
    next(arrays)
    time.sleep(0.1)
    assert decoded.total() <= 2 * pixel_cache.DECODE_AHEAD + 1
    assert len(list(arrays)) == 22


def test_zip_members(tmp_path, in_files):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for index in range(7):
            with archive.open(f"{index}.png", "w") as file:
                random_image(30, 40, index).save(file, "PNG")
    members = [ZipMember(str(tmp_path / "a.zip"), f"{index}.png") for index in range(7)]
    images = data.ImageSet(members, range(7), list("abcdefg"))
    parts = data.Splits("zip", images, images, images, images.classes, SMALL, augmentation={})
    assert same(by_label(parts.loaders(2).val), dict(enumerate(image for image, _ in parts.val)))
    assert len(by_label(parts.loaders(4, workers=2).train)) == 7


def files_of(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_larger_sets_go_into_a_file_that_other_runs_use(in_files, decoded):
    parts = splits()
    first = by_label(parts.loaders(4).train)
    assert decoded.total() == 23
    assert len(files_of(in_files)) == 1
    pixel_cache.remembered.clear()
    assert same(by_label(parts.loaders(4).train), first)
    assert decoded.total() == 23
    assert same(by_label(parts.loaders(4, workers=0).train), first)


def test_what_a_killed_process_left_is_cleared_away(in_files):
    in_files.mkdir(parents=True)
    (in_files / ".0.pixels.1.part").write_bytes(b"half of it")
    list(splits().loaders(4).val)
    assert len(files_of(in_files)) == 1


def damage(how, file):
    content = bytearray(file.read_bytes())
    if how == "shorter":
        content = content[:-100]
    elif how == "half":
        content = content[: len(content) // 2]
    elif how == "empty":
        content = bytearray()
    elif how == "longer":
        content += b"x"
    elif how == "gap":  # between the pixels and the lines of 24 bytes that describe them; all checksums fit
        content[-24 * 23 - 16 : -24 * 23 - 16] = b"x"
    elif how == "another":
        content = bytearray(os.urandom(len(content)))
    else:
        content[{"pixel": 1000, "index": -100, "trailer": -1}[how]] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("how", ["shorter", "half", "empty", "longer", "gap", "another", "pixel", "index", "trailer"])
def test_a_damaged_file_is_made_anew(how, in_files, decoded):
    parts = splits()
    first = by_label(parts.loaders(4).train)
    (file,) = in_files.glob("*.pixels")
    whole = file.read_bytes()
    damage(how, file)
    pixel_cache.remembered.clear()
    assert same(by_label(parts.loaders(4).train), first)
    assert decoded.total() == 46
    assert file.read_bytes() == whole
    assert len(files_of(in_files)) == 1


def test_a_changed_file_is_decoded_anew(odd_files, in_files):
    parts = data.Splits("odd", odd_files, odd_files, odd_files, odd_files.classes, SMALL, augmentation={})
    first = by_label(parts.loaders(4).val)
    path = odd_files.sources[3]
    random_image(33, 44, 8).save(path)
    second = by_label(parts.loaders(4).val)
    assert [label for label in first if not torch.equal(first[label], second[label])] == [3]
    assert torch.equal(second[3], parts.val[3][0])


def test_an_unreadable_image_is_named_and_nothing_is_left(odd_files, in_files):
    odd_files.sources[4].write_bytes(odd_files.sources[4].read_bytes()[:40])
    parts = data.Splits("odd", odd_files, odd_files, odd_files, odd_files.classes, SMALL, augmentation={})
    for loader in parts.loaders(4)[:2]:
        with pytest.raises(ValueError, match=rf"{odd_files.sources[4].name} \(.*skip_unreadable=True"):
            list(loader)
    assert not in_files.exists() or files_of(in_files) == []


def test_without_room_each_epoch_decodes_anew(in_files, decoded, monkeypatch):
    parts = splits()
    expected = by_label(parts.loaders(4).train)
    pixel_cache.remembered.clear()
    shutil.rmtree(in_files)
    usage = shutil.disk_usage(in_files.parent)
    monkeypatch.setattr(pixel_cache.shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    decoded.clear()
    loader = parts.loaders(4).train
    with pytest.warns(UserWarning, match="The 23 decoded images need .* again: set TLCOURSE_CACHE"):
        first = by_label(loader)
    assert same(first, expected)
    assert decoded.total() > 23
    loader.generator.manual_seed(0)
    assert same(by_label(loader), expected)
    assert files_of(in_files) == []


def test_a_folder_that_cannot_be_written(tmp_path, in_files):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="there is no room"):
        assert len(by_label(splits().loaders(4).train)) == 23


def test_a_disk_that_fills_up_meanwhile(in_files, monkeypatch):
    parts = splits()
    expected = by_label(parts.loaders(4).train)
    pixel_cache.remembered.clear()
    shutil.rmtree(in_files)

    def full(values):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pixel_cache.zlib, "crc32", full)
    with pytest.warns(UserWarning, match="there is no room"):
        assert same(by_label(parts.loaders(4).train), expected)
    assert files_of(in_files) == []


def test_the_files_unused_for_longest_give_way(in_files, monkeypatch):
    for count in (10, 11, 12):
        list(splits(count, augmentation=None).loaders(4).val)
    old, middle, new = sorted(in_files.glob("*.pixels"), key=lambda file: file.stat().st_size)
    for age, file in enumerate((new, middle, old)):
        os.utime(file, (time.time() - 100 * age,) * 2)
    pixel_cache.remembered.clear()
    os.utime(old, (1, 1))
    list(splits(10, augmentation=None).loaders(4).val)  # now it is in use
    taken = sum(file.stat().st_size for file in (old, middle, new))
    usage = shutil.disk_usage(in_files)
    monkeypatch.setattr(pixel_cache.shutil, "disk_usage", lambda folder: usage._replace(free=taken + 3000))
    list(splits(13, augmentation=None).loaders(4).val)
    assert old.exists()
    assert not middle.exists()
    assert new.exists()


def test_sets_in_memory_are_forgotten_from_the_oldest_on(decoded, monkeypatch):
    monkeypatch.setattr(pixel_cache, "MAX_REMEMBERED", 2 * 10 * 16 * 16 * 3)
    parts = [splits(10, augmentation=None, preprocessing=Preprocessing(16, size)) for size in (16, 17, 18)]
    for part in parts:
        list(part.loaders(4).val)
    assert decoded.total() == 30
    list(parts[1].loaders(4).val)
    assert decoded.total() == 30
    list(parts[0].loaders(4).val)
    assert decoded.total() == 40


def test_the_set_that_was_read_last_is_kept(decoded, monkeypatch):
    monkeypatch.setattr(pixel_cache, "MAX_REMEMBERED", 2 * 10 * 16 * 16 * 3)
    parts = [splits(10, augmentation=None, preprocessing=Preprocessing(16, size)) for size in (16, 17, 18)]
    for index in (0, 1, 0, 2, 0):
        list(parts[index].loaders(4).val)
    assert decoded.total() == 30
    list(parts[1].loaders(4).val)
    assert decoded.total() == 40


def test_two_threads_decode_once(decoded, in_files):
    parts = splits()
    threads = [threading.Thread(target=lambda: list(parts.loaders(4).train)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert decoded.total() == 23


def test_odd_images_are_augmented(odd_files):
    parts = data.Splits("odd", odd_files, odd_files, odd_files, odd_files.classes, SMALL, augmentation=STRONG)
    for _ in range(5):
        found = by_label(parts.loaders(5).train)
        assert len(found) == len(odd_files)
        assert all(image.isfinite().all() for image in found.values())
    red = odd_files.classes.index("dot.png")
    plain = replace(parts, augmentation={}).for_model(SMALL)
    red_image = SMALL.undo(by_label(plain.loaders(5).train)[red])
    torch.testing.assert_close(red_image[:, 5, 5], torch.tensor([1.0, 0, 0]))


# Several processes


def parts_of(loader, count, whole_small):
    return [shard_loader(loader(), index, count, whole_small=whole_small) for index in range(count)]


def plain_loader(batch_size=6, workers=0, drop_last=False):
    numbers = TensorDataset(torch.arange(23) * 10, torch.arange(23))
    generator = torch.Generator().manual_seed(0)
    return DataLoader(numbers, batch_size, shuffle=True, drop_last=drop_last, generator=generator, num_workers=workers)


LOADERS = {
    "pixels": lambda: splits().loaders(6).train,
    "evaluation": lambda: splits().loaders(3).val,
    "plain": plain_loader,
    "workers": lambda: plain_loader(workers=1),
    "iterable": lambda: list(plain_loader()),
}


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("kind", LOADERS)
def test_processes_together_read_every_batch_once(kind, count):
    whole = list(LOADERS[kind]())
    read = [list(part) for part in parts_of(LOADERS[kind], count, False)]
    for number, (images, labels) in enumerate(whole):
        for index in range(count):
            own = labels[index::count]
            if len(own):
                assert torch.equal(read[index][number][1], own)
                assert torch.equal(read[index][number][0], images[index::count])
    labels = torch.cat([labels for part in read for _, labels in part]).sort().values
    assert torch.equal(labels, torch.arange(23))


@pytest.mark.parametrize("kind", LOADERS)
def test_small_batches_go_whole_to_every_process_or_to_those_they_suffice_for(kind):
    whole = list(LOADERS[kind]())
    last = whole[-1]
    assert len(last[1]) == 5
    alone = [list(part) for part in parts_of(LOADERS[kind], 7, False)]
    assert [len(part) for part in alone] == [4, 4, 4, 4, 4, 3, 0]
    every = [list(part) for part in parts_of(LOADERS[kind], 7, True)]
    assert {len(part) for part in every} == {4}
    for part in every:
        assert torch.equal(part[-1][0], last[0])


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("whole_small", [False, True])
@pytest.mark.parametrize("batch_size", [2, 5, 6])
def test_the_length_of_a_part_is_right(batch_size, whole_small, drop_last):
    for index in range(4):
        part = shard_loader(plain_loader(batch_size, drop_last=drop_last), index, 4, whole_small=whole_small)
        assert len(part) == len(list(part))


def test_a_part_continues_where_the_generator_stands():
    one, other = splits().loaders(6).train, splits().loaders(6).train
    list(one)
    part = shard_loader(other, 1, 2, whole_small=True)
    list(part)
    assert torch.equal(one.generator.get_state(), part.generator.get_state())
    part.generator.set_state(one.generator.get_state())
    assert torch.equal(next(iter(part))[0], next(iter(one))[0][1::2])


def test_settings_of_a_plain_loader_are_kept():
    def collate(items):
        return "mine", torch.tensor([label for _, label in items])

    numbers = TensorDataset(torch.arange(8), torch.arange(8))
    loader = DataLoader(numbers, 4, collate_fn=collate, num_workers=1, prefetch_factor=3, timeout=20)
    part = shard_loader(loader, 1, 2, whole_small=True)
    assert type(part) is DataLoader
    assert (part.num_workers, part.prefetch_factor, part.timeout) == (1, 3, 20)
    assert [word for word, _ in part] == ["mine", "mine"]
    batches = BatchSampler(torch.utils.data.SequentialSampler(numbers), 3, False)
    own = shard_loader(DataLoader(numbers, batch_sampler=batches), 0, 2, whole_small=True)
    assert [labels.tolist() for _, labels in own] == [[0, 2], [3, 5], [6]]


def test_streams_and_subclasses_are_cut_batch_by_batch():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([(torch.tensor(float(i)), i) for i in range(7)])

    class Doubled(DataLoader):
        def __iter__(self):
            return ((2 * images, labels) for images, labels in super().__iter__())

    part = shard_loader(DataLoader(Stream(), batch_size=4), 1, 2, whole_small=True)
    assert [labels.tolist() for _, labels in part] == [[1, 3], [5]]
    numbers = TensorDataset(torch.arange(8), torch.arange(8))
    doubled = shard_loader(Doubled(numbers, batch_size=4), 1, 2, whole_small=True)
    assert [images.tolist() for images, _ in doubled] == [[2, 6], [10, 14]]
    assert len(doubled) == 2


def test_one_process_reads_the_loader_itself():
    loader = plain_loader()
    assert shard_loader(loader, 0, 1, whole_small=True) is loader
    with pytest.raises(ValueError, match="index is 2 and count 2"):
        shard_loader(loader, 2, 2, whole_small=True)
