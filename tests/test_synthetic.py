"""The generated domains: a seed's image stays the same, and the class shows where it should and nowhere else."""

import pickle
import random
import time

import numpy as np
import pytest
import torch
from domain_difficulty import histogram, simple_accuracy, thumbnail

from tlcourse import data
from tlcourse.data.reading import read_image
from tlcourse.data.registry import DOMAIN_COUNTS
from tlcourse.preprocessing import Preprocessing
from tlcourse.synthetic import domains

EVERY = [(name, label) for name, module in domains.DOMAINS.items() for label in module.CLASSES]
ONE = Preprocessing(64, 64)
# Of the image of seed 7: the means of 3 x 3 blocks, and how much neighbouring pixels differ.
SUMMARIES = {
    ("radiographs", "clear"): [74.18, 101.25, 71.87, 51.52, 106.77, 67.27, 109.67, 166.66, 98.62, 6.39],
    ("radiographs", "opacity"): [74.18, 104.20, 72.03, 51.52, 110.29, 67.34, 109.67, 166.67, 98.62, 6.42],
    ("surfaces", "clean"): [121.51, 119.09, 111.34, 119.82, 119.71, 113.30, 113.59, 112.83, 100.61, 12.96],
    ("surfaces", "scratch"): [121.51, 118.05, 110.55, 118.73, 115.23, 110.25, 112.09, 111.72, 100.61, 13.62],
    ("surfaces", "dent"): [121.51, 118.87, 110.95, 119.82, 115.70, 114.54, 113.59, 112.91, 100.88, 12.99],
    ("surfaces", "stain"): [121.51, 109.69, 110.88, 119.82, 104.15, 99.09, 113.59, 112.83, 98.65, 12.73],
    ("landuse", "fields"): [106.08, 80.79, 77.63, 77.40, 89.32, 120.86, 78.88, 112.33, 131.89, 4.24],
    ("landuse", "forest"): [112.61, 179.91, 180.56, 95.91, 98.99, 144.74, 96.47, 90.72, 87.08, 9.03],
    ("landuse", "town"): [123.80, 123.76, 118.45, 122.85, 128.36, 129.44, 122.29, 125.38, 120.94, 10.79],
    ("landuse", "water"): [104.17, 81.42, 89.62, 92.19, 95.56, 87.45, 87.93, 95.02, 87.29, 4.69],
}


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How far apart two images are at each pixel, in grey levels: `(H, W)`."""
    apart = np.abs(a.astype(int) - b.astype(int))
    return apart if apart.ndim == 2 else apart.max(2)


@pytest.mark.parametrize(("domain", "label"), EVERY)
def test_an_image_depends_on_its_seed_and_on_nothing_else(domain, label):
    np.random.seed(1)
    torch.manual_seed(1)
    first = domains.generate(domain, label, 5)
    before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), random.getstate()
    domains.generate(domain, label, 6)
    assert (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), random.getstate()) == before
    np.random.seed(2)
    assert np.array_equal(domains.generate(domain, label, 5), first)
    assert difference(first, domains.generate(domain, label, 6)).mean() > 5


@pytest.mark.parametrize(("domain", "channels"), [("radiographs", ()), ("surfaces", (3,)), ("landuse", (3,))])
@pytest.mark.parametrize("size", [32, 96, 130])
def test_sizes_and_types(domain, channels, size):
    for label in domains.DOMAINS[domain].CLASSES:
        image = domains.generate(domain, label, 3, size)
        assert image.shape == (size, size, *channels)
        assert image.dtype == np.uint8
        assert image.std() > 3


def test_a_size_changes_the_resolution_and_not_the_scene():
    for domain, label in EVERY:
        large = domains.generate(domain, label, 8, 192).reshape(48, 4, 48, 4, -1).mean((1, 3, 4))
        small = domains.generate(domain, label, 8, 96).reshape(48, 2, 48, 2, -1).mean((1, 3, 4))
        assert np.corrcoef(large.ravel(), small.ravel())[0, 1] > 0.8, (domain, label)


@pytest.mark.parametrize(("domain", "label"), EVERY)
def test_images_stay_what_they_were(domain, label):
    """Figures and measurements were made from them: a change has to be meant, and to be measured again."""
    values = domains.generate(domain, label, 7).astype(float).reshape(96, 96, -1).mean(2)
    summary = [*values.reshape(3, 32, 3, 32).mean((1, 3)).ravel(), np.abs(np.diff(values)).mean()]
    # Processors may round a few values to the next grey level, see `generate`.
    assert summary == pytest.approx(SUMMARIES[domain, label], abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pets", "cat", 0), "no domain 'pets'. Choose one of radiographs, surfaces, landuse"),
        (("surfaces", "hole", 0), "no class 'hole'. Choose one of clean, scratch, dent, stain"),
        (("surfaces", 1, 0), "no class 1"),
        (("landuse", "town", -1), "seed=-1: give a whole number"),
        (("landuse", "town", 0.5), "seed=0.5"),
        (("landuse", "town", 0, 16), "size=16: give .* from 32 to 512"),
        (("landuse", "town", 0, 96.5), "size=96.5"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        domains.generate(*arguments)


def changed(domain: str, label: str, healthy: str) -> np.ndarray:
    """For 12 seeds, how much of the image the class changes: its share, and the largest difference, `(12, 2)`."""
    found = []
    for seed in range(12):
        apart = difference(domains.generate(domain, label, seed), domains.generate(domain, healthy, seed))
        found.append(((apart > 3).mean(), apart.max()))
    return np.array(found)


@pytest.mark.parametrize("label", ["scratch", "dent", "stain"])
def test_a_defect_changes_its_place_and_nothing_else(label):
    share, largest = changed("surfaces", label, "clean").T
    assert share.max() < 0.5
    assert (share > 0).sum() >= 11, "a defect may be nearly lost in a rough surface, now and then"
    assert np.median(largest) > 20


def test_an_opacity_changes_a_place_in_the_lungs_and_nothing_else():
    share, largest = changed("radiographs", "opacity", "clear").T
    assert 0 < share.min() <= share.max() < 0.35
    assert np.median(largest) > 20
    for seed in range(12):
        clear, opacity = (domains.generate("radiographs", label, seed).astype(int) for label in ("clear", "opacity"))
        assert (opacity - clear).min() >= -12, "tissue in the path makes it lighter; scatter may darken by a little"


def test_the_heart_is_on_the_right_side_of_the_image():
    """So a mirror image is another chest, though of the same class."""
    mean = np.mean([domains.generate("radiographs", "clear", seed) for seed in range(20)], axis=0)
    lower = mean[48:66]
    assert lower[:, 50:66].mean() > lower[:, 30:46].mean() + 8


def test_land_use_has_no_up():
    """Detail along x and along y is alike on average, and so is light from all four sides."""
    images = [
        domains.generate("landuse", label, seed) for label in domains.DOMAINS["landuse"].CLASSES for seed in range(50)
    ]
    grey = np.stack(images).mean(3)
    right, down = np.diff(grey, axis=2), np.diff(grey, axis=1)
    energy_x, energy_y = (right**2).mean((1, 2)), (down**2).mean((1, 2))
    ratio = np.log(energy_x / energy_y)
    assert abs(ratio.mean()) < 4 * ratio.std() / len(ratio) ** 0.5 < 0.5
    for slope in (right, down):
        skew = (slope**3).mean((1, 2)) / (slope**2).mean((1, 2)) ** 1.5
        assert abs(skew.mean()) < 4 * skew.std() / len(skew) ** 0.5


def test_sets_of_any_size_are_balanced_and_share_no_seed():
    for name, module in domains.DOMAINS.items():
        splits = data.load(name, model=ONE)
        parts = [splits.train, splits.val, splits.test]
        assert tuple(len(images) for images in parts) == DOMAIN_COUNTS
        assert splits.classes == list(module.CLASSES)
        for images in parts:
            assert max(images.counts()) == min(images.counts())
            assert [splits.classes[label] for label in images.labels] == [source.label for source in images.sources]
        more = data.synthetic_images(name, 41)
        assert max(more.counts()) - min(more.counts()) <= 1
        seeds = [source.seed for images in (*parts, more) for source in images.sources]
        assert len(set(seeds)) == len(seeds)


def test_sets_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="count=3: surfaces have 4 classes"):
        data.synthetic_images("surfaces", 3)
    with pytest.raises(ValueError, match="no domain 'cats'"):
        data.synthetic_images("cats", 30)


def test_a_set_draws_the_images_that_are_read():
    images = data.synthetic_images("surfaces", 20_000)
    drawn = np.asarray(images.raw(5))
    assert np.array_equal(drawn, domains.generate("surfaces", "scratch", 3_000_005))
    grey = data.synthetic_images("radiographs", 2)
    assert np.array_equal(
        np.asarray(grey.raw(1)), np.repeat(domains.generate("radiographs", "opacity", 3_000_001)[..., None], 3, 2)
    )
    again = pickle.loads(pickle.dumps(grey))
    assert np.array_equal(np.asarray(again.raw(1)), np.asarray(grey.raw(1)))
    assert again.content == grey.content != data.synthetic_images("radiographs", 2, first_seed=0).content
    with pytest.raises(ValueError, match="the generated image hole, seed 3"):
        read_image(images.sources[0]._replace(label="hole", seed=3))


def test_training_turns_land_and_nothing_else():
    for name in domains.DOMAINS:
        transform = repr(data.load(name, model=ONE, train=8).train.transform)
        assert ("RandomRotation" in transform) == (name == "landuse")
        assert "RandomHorizontalFlip" in transform
        assert "Random" not in repr(data.load(name, model=ONE, train=8, augment=False).train.transform)


@pytest.mark.parametrize(("name", "limit"), [("radiographs", 0.62), ("surfaces", 0.38), ("landuse", 0.72)])
def test_neither_colours_nor_layout_solve_a_domain(name, limit):
    splits = data.load(name, model=ONE, train=200, test=200)
    assert simple_accuracy(splits, histogram) < limit
    assert simple_accuracy(splits, thumbnail) < limit


@pytest.mark.parametrize("domain", domains.DOMAINS)
def test_an_image_takes_milliseconds(domain):
    start = time.process_time()
    for seed in range(4):
        for label in domains.DOMAINS[domain].CLASSES:
            domains.generate(domain, label, seed)
    # A tenth of this when nothing else runs.
    assert (time.process_time() - start) / (4 * len(domains.DOMAINS[domain].CLASSES)) < 0.1
