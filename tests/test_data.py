"""Transforms, reading of odd images, splits, loaders, the catalog."""

import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torchvision import models
from torchvision.transforms import v2

from tlcourse import data, runtime
from tlcourse.data import registry
from tlcourse.data.reading import ZipMember, read_image, to_rgb
from tlcourse.data.sampling import shuffled, stratify
from tlcourse.preprocessing import Preprocessing, get_preprocessing

SMALL = Preprocessing(16, 20)


@pytest.fixture(autouse=True)
def mini(monkeypatch, tmp_path):
    for name in ("DATA", "WEIGHTS"):
        monkeypatch.delenv(f"TLCOURSE_{name}", raising=False)
    monkeypatch.setenv("TLCOURSE_PROFILE", "mini")
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(runtime, "_current", None)


@pytest.fixture
def image():
    """A smooth image with some grain, larger than the crop and not square."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize(
        (411, 307), Image.Resampling.BICUBIC
    )
    grain = rng.integers(-12, 13, (307, 411, 3))
    return Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8))


def arrays(per_class=(30, 20, 10), classes=("a", "b", "c"), transform=None):
    labels = [label for label, count in enumerate(per_class) for _ in range(count)]
    images = np.random.default_rng(1).integers(0, 256, (len(labels), 24, 24, 3), dtype=np.uint8)
    return data.ImageSet(images, labels, classes, transform)


@pytest.fixture
def splits():
    sets = [arrays() for _ in range(3)]
    return data.Splits("test", *sets, classes=["a", "b", "c"], preprocessing=SMALL, augmentation={})


# Transforms


@pytest.mark.parametrize(
    "weights",
    [
        models.ResNet50_Weights.IMAGENET1K_V2,
        models.ResNet50_Weights.IMAGENET1K_V1,
        models.EfficientNet_B0_Weights.IMAGENET1K_V1,
        models.ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1,
    ],
)
def test_evaluation_is_what_the_weights_were_measured_with(weights, image):
    ours = get_preprocessing(weights).evaluation()(image)
    torch.testing.assert_close(ours, weights.transforms()(image), atol=1e-5, rtol=0)


def test_resnet50_v2_reads_232_and_224():
    assert get_preprocessing(models.ResNet50_Weights.IMAGENET1K_V2) == Preprocessing(224, 232)


@pytest.mark.parametrize("name", ["resnet18", "resnet50.a1_in1k", "vit_base_patch16_siglip_224"])
def test_evaluation_is_timms_own(name, image):
    config = timm.get_pretrained_cfg(name)
    theirs = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=config.to_dict()))
    torch.testing.assert_close(get_preprocessing(config).evaluation()(image), theirs(image), atol=1e-5, rtol=0)


def test_timm_model_and_carried_preprocessing():
    model = timm.create_model("resnet18.a1_in1k", pretrained=False)
    assert get_preprocessing(model) == Preprocessing(224, 235, interpolation="bicubic")
    carrier = nn.Linear(1, 1)
    carrier.preprocessing = SMALL
    assert get_preprocessing(carrier) is SMALL
    assert get_preprocessing(SMALL) is SMALL


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (nn.Linear(1, 1), "Linear does not say how its images are prepared"),
        ("resnet50", "'resnet50' does not say"),
        (models.detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1, "not weights of an image classifier"),
        ({"input_size": (3, 224, 192)}, "not square"),
        ({"input_size": (1, 28, 28)}, "takes 1 channels"),
        ({"input_size": (3, 224, 224), "crop_mode": "border"}, "crop mode 'border' is not supported"),
    ],
)
def test_sources_without_a_usable_preprocessing(source, message):
    with pytest.raises(ValueError, match=message):
        get_preprocessing(source)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 64, "resize": 32}, "size 64 must be .* at most resize, which is 32"),
        ({"size": 64, "resize": 64, "mean": (0.5,)}, "mean has 1 values"),
        ({"size": 64, "resize": 64, "interpolation": "cubic"}, "'cubic': choose one of nearest, bilinear"),
    ],
)
def test_impossible_preprocessing(wrong, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**wrong)


def test_undo_gives_the_colours_back(image):
    shown = SMALL.undo(torch.stack([SMALL.evaluation()(image)] * 2))
    resized = v2.functional.center_crop(v2.functional.resize(image, [20]), [16])
    torch.testing.assert_close(shown[1], v2.functional.to_dtype(v2.functional.to_image(resized), scale=True).data)


def test_training_transform(image):
    transform = pickle.loads(pickle.dumps(SMALL.training(rotation=10, colour=0.2)))
    torch.manual_seed(0)
    first, second = transform(image), transform(image)
    assert first.shape == (3, 16, 16)
    assert first.dtype == torch.float32
    assert not torch.equal(first, second)
    assert "Flip" in repr(SMALL.training())
    assert "Flip" not in repr(SMALL.training(flip=False))


def test_rotation_fills_the_corners_with_the_mean():
    white = Image.new("RGB", (40, 40), "white")
    transform = SMALL.training(scale=(1, 1), flip=False, rotation=45)
    torch.manual_seed(1)
    corners = torch.stack([transform(white)[:, 0, 0] for _ in range(10)])
    assert corners.abs().max(dim=1).values.min() < 0.02


def test_transforms_are_named_by_their_values():
    assert repr(SMALL.evaluation()) == repr(Preprocessing(16, 20).evaluation())
    for other in (Preprocessing(16, 21), Preprocessing(16, 20, interpolation="bicubic")):
        assert repr(SMALL.evaluation()) != repr(other.evaluation())
        assert hash(SMALL) != hash(other)


# Reading

GREY = np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8)
GREY_RGB = np.repeat(GREY[..., None], 3, axis=2)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(GREY),
        Image.fromarray(GREY_RGB),
        Image.fromarray(GREY.astype(np.uint16) * 257),
        Image.fromarray(GREY.astype(np.uint16) * 257).convert("I"),
        Image.fromarray(GREY.astype(np.int32)),
        Image.fromarray(GREY.astype(np.float32) / 255),
        Image.fromarray(GREY.astype(np.float32)),
        Image.fromarray(GREY).convert("LA"),
        Image.fromarray(GREY_RGB).quantize(64),
    ],
    ids=lambda image: image.mode,
)
def test_every_mode_becomes_the_same_rgb(image):
    converted = to_rgb(image)
    assert converted.mode == "RGB"
    np.testing.assert_allclose(np.asarray(converted).astype(int), GREY_RGB, atol=1)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_dark_16_bit_files_stay_dark(tmp_path, suffix):
    path = tmp_path / f"dark{suffix}"
    Image.fromarray(np.full((8, 8), 200, dtype=np.uint16)).save(path)
    assert np.asarray(read_image(path)).max() == 1, "200 of 65535 is nearly black"


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_twelve_bits_in_sixteen_keep_their_greys(tmp_path, suffix):
    values = np.linspace(0, 4095, 4096).reshape(64, 64)
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / f"x{suffix}")
    greys = np.asarray(read_image(tmp_path / f"x{suffix}"))[..., 0]
    assert (len(np.unique(greys)), greys.min(), greys.max()) == (256, 0, 255)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 1.02])
def test_one_odd_value_does_not_spoil_an_image_of_floats(odd):
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    values[0, 0] = odd
    greys = np.asarray(to_rgb(Image.fromarray(values)))[..., 0].astype(int)
    np.testing.assert_allclose(greys.flatten()[1:], GREY.flatten()[1:], atol=1)
    assert greys[0, 0] == (255 if odd > 0 else 0)


@pytest.mark.parametrize("values", [np.linspace(-1, 1, 64), np.full(64, np.nan)])
def test_values_that_leave_open_what_is_black_are_refused(tmp_path, values):
    Image.fromarray(values.astype(np.float32).reshape(8, 8)).save(tmp_path / "x.tif")
    with pytest.raises(ValueError, match=r"x\.tif.*save it with values from 0 to 255"):
        read_image(tmp_path / "x.tif")


def test_transparency_lies_over_white(tmp_path):
    clear = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    assert to_rgb(clear).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(Image.new("RGBA", (4, 4), (200, 0, 0, 255))).getpixel((0, 0)) == (200, 0, 0)
    Image.new("P", (4, 4), 0).save(tmp_path / "p.gif", transparency=0)
    assert read_image(tmp_path / "p.gif").getpixel((0, 0)) == (255, 255, 255)
    Image.new("L", (4, 4), 9).save(tmp_path / "l.png", transparency=9)
    assert read_image(tmp_path / "l.png").getpixel((0, 0)) == (255, 255, 255)


def test_cmyk_jpeg(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=95)
    red, green, blue = read_image(tmp_path / "red.jpg").getpixel((4, 4))
    assert red > 200 > 60 > max(green, blue)


def test_images_are_turned_upright(tmp_path):
    image = Image.new("RGB", (40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").size == (20, 40)


def test_broken_exif_does_not_spoil_an_image(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "exif.jpg", exif=b"Exif\x00\x00MM\x00*\x00\x00\xff\xff")
    assert read_image(tmp_path / "exif.jpg").size == (8, 8)


def test_animated_gives_the_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "a.webp", "a.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=50)
        red, _, blue = read_image(tmp_path / name).getpixel((4, 4))
        assert red > 200 > 50 > blue, name


def test_a_smallest_side_makes_jpegs_smaller_and_leaves_others(tmp_path, image):
    image.save(tmp_path / "a.jpg")
    image.save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.jpg", min_side=70).size == (103, 77), "a quarter"
    assert read_image(tmp_path / "a.png", min_side=70).size == image.size
    assert read_image(tmp_path / "a.jpg").size == image.size


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "bad.jpg").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match=r"bad\.jpg \(not an image\).*skip_unreadable=True"):
        read_image(tmp_path / "bad.jpg")
    with pytest.raises(ValueError, match=r"array of shape \(4, 4\) \(the array holds float64"):
        read_image(np.zeros((4, 4)))


# ImageSet


def test_image_set_items():
    images = arrays(transform=SMALL.evaluation())
    image, label = images[35]
    assert image.shape == (3, 16, 16)
    assert label == 1
    assert images.raw(35).size == (24, 24)
    assert images.counts() == [30, 20, 10]
    assert images.labels.dtype == torch.long
    assert isinstance(images.with_transform(None)[0][0], Image.Image)
    part = images.subset(torch.tensor([59, 0]))
    assert part.labels.tolist() == [2, 0]
    assert part.sources[0] is images.sources[59]


def test_image_set_takes_tensors():
    images = data.ImageSet(torch.full((2, 3, 8, 8), 7, dtype=torch.uint8), torch.tensor([0, 1]), ["a", "b"])
    assert images.raw(1).getpixel((0, 0)) == (7, 7, 7)


def test_true_labels_have_to_fit():
    with pytest.raises(ValueError, match="2 labels and 1 true ones"):
        data.ImageSet(np.zeros((2, 4, 4), np.uint8), [0, 1], ["a", "b"], true_labels=torch.tensor([0]))


@pytest.mark.parametrize(("labels", "message"), [([0], "2 images and 1 labels"), ([0, 2], "Labels go from 0 to 2")])
def test_image_set_refuses_labels_that_do_not_fit(labels, message):
    with pytest.raises(ValueError, match=message):
        data.ImageSet(np.zeros((2, 4, 4), np.uint8), labels, ["a", "b"])


@pytest.mark.parametrize(
    ("labels", "right"),
    [
        ([1, 0, 1], [1, 0, 1]),
        ([1.0, 0.0, 1.0], [1, 0, 1]),  # a column of numbers that had gaps once
        (np.eye(2)[[1, 0, 1]], [1, 0, 1]),
        (torch.eye(2)[[1, 0, 1]], [1, 0, 1]),
        (np.array([[1], [0], [1]]), [1, 0, 1]),  # as Keras has them
        (["b", "a", "b"], [1, 0, 1]),
        (np.array(["b", "a", "b"]), [1, 0, 1]),
        ([True, False, True], [1, 0, 1]),
        ([torch.tensor(1), torch.tensor(0), torch.tensor(1)], [1, 0, 1]),
    ],
)
def test_image_set_reads_labels_of_every_usual_kind(labels, right):
    assert data.ImageSet(np.zeros((3, 4, 4), np.uint8), labels, ["a", "b"]).labels.tolist() == right


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        ([0.9, 0.2], ["a", "b"], r"whole numbers.*such as 0\.9"),
        ([0.0, float("nan")], ["a", "b"], "Label 1 is missing"),
        ([[1, 1], [0, 1]], ["a", "b"], r"whole numbers.*shape \(2, 2\)"),
        ([[0.9, 0.1], [0.2, 0.8]], ["a", "b"], r"\.argmax\(1\)"),
        (["a", "c"], ["a", "b"], "'c' is neither a number nor a class"),
        ([0, None], ["a", "b"], "Label 1 is missing"),
        ([0, 1], {"a", "b"}, "whose order numbers them"),
        ([0, 1], "ab", "whose order numbers them"),
        ([0, 1], ["a", "a"], "each class once"),
        ([1, 2], ["a", "b"], "Labels go from 1 to 2"),
    ],
)
def test_image_set_refuses_what_is_no_label(labels, classes, message):
    with pytest.raises(ValueError, match=message):
        data.ImageSet(np.zeros((2, 4, 4), np.uint8), labels, classes)


@pytest.mark.parametrize(
    "source",
    [
        np.full((4, 6), 7, np.uint8),
        np.full((4, 6, 1), 7, np.uint8),
        np.full((4, 6, 3), 7, np.uint8),
        torch.full((4, 6), 7, dtype=torch.uint8),
        torch.full((1, 4, 6), 7, dtype=torch.uint8),
        torch.full((3, 4, 6), 7, dtype=torch.uint8),
    ],
)
def test_arrays_and_tensors_of_every_usual_shape(source):
    image = read_image(source)
    assert (image.size, image.getpixel((5, 3))) == ((6, 4), (7, 7, 7))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((3, 8, 8), np.uint8), "channels go last in arrays"),
        (torch.zeros((8, 8, 3), dtype=torch.uint8), "first in tensors"),
        (np.zeros((2, 8, 8, 3), np.uint8), "channels go last"),
        (torch.zeros((3, 8, 8)), r"float32; give uint8, 0 to 255: \(255 \* x\)"),
        (np.zeros((8, 8), np.int64), "int64; give uint8"),
    ],
)
def test_arrays_that_are_no_images_say_what_to_do(source, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_image(source)
    assert "skip_unreadable" not in str(caught.value)


@pytest.fixture
def zipped(tmp_path):
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(6):
            with archive.open(f"{index}.png", "w") as file:
                Image.new("RGB", (24, 24), (40 * index, 0, 0)).save(file, "PNG")
    return data.ImageSet(
        [ZipMember(str(path), f"{i}.png") for i in range(6)], [0, 1] * 3, ["a", "b"], SMALL.evaluation()
    )


def test_zip_members_in_this_and_in_worker_processes(zipped):
    assert zipped.raw(3).getpixel((0, 0)) == (120, 0, 0)
    again = pickle.loads(pickle.dumps(zipped))
    assert torch.equal(again[5][0], zipped[5][0])
    loader = torch.utils.data.DataLoader(zipped, batch_size=2, num_workers=2)
    assert torch.equal(torch.cat([images for images, _ in loader]), torch.stack([image for image, _ in zipped]))


def test_content_follows_images_and_their_order(zipped):
    images = arrays()
    digests = {
        images.content,
        images.subset(range(59)).content,
        zipped.content,
        zipped.subset([1, 0, 2, 3, 4, 5]).content,
    }
    assert images.with_transform(SMALL.training()).content == images.content
    assert images.relabelled(images.labels.flip(0)).content == images.content
    changed = arrays()
    changed.sources[0] = changed.sources[0].copy()
    assert changed.content == images.content
    changed.sources[0][0, 0, 0] ^= 1
    assert len(digests | {changed.content}) == 5


def test_content_of_files_follows_changes_but_not_moves(tmp_path):
    def of(folder):
        return data.ImageSet([folder / "a.png"], [0], ["a"], root=folder).content

    (tmp_path / "here").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "here" / "a.png")
    before = of(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    assert of(tmp_path / "there") == before
    os.utime(tmp_path / "there" / "a.png", ns=(1, 1))
    assert of(tmp_path / "there") != before


# Splits and loaders


def test_only_training_is_augmented(splits):
    assert "RandomResizedCrop" in repr(splits.train.transform)
    for images in (splits.val, splits.test, splits.plain().train, splits.plain().val):
        assert "Random" not in repr(images.transform)
    assert splits.plain().train.transform is not None


def test_for_model_keeps_the_augmentation(splits):
    other = splits.take(30).for_model(Preprocessing(8, 8))
    assert other.train[0][0].shape == other.test[0][0].shape == (3, 8, 8)
    assert "Random" in repr(other.train.transform)
    assert len(other.train) == 30
    assert "Random" not in repr(splits.plain().for_model(SMALL).train.transform)


def test_a_transform_of_ones_own_is_kept(splits):
    mine = v2.Compose([v2.CenterCrop(12), v2.ToImage()])
    own = replace(splits, train=splits.train.with_transform(mine)).take(train=6)
    assert own.train.transform is mine
    assert "Normalize" in repr(own.plain().train.transform)
    assert "Normalize" in repr(own.for_model(SMALL).train.transform)


def test_take_is_balanced_nested_and_fixed(splits):
    def chosen(count, seed=0):
        return {image.tobytes() for image in splits.take(train=count, seed=seed).train.sources}

    assert splits.take(train=12).train.counts() == [4, 4, 4]
    assert splits.take(train=45).train.counts() == [18, 17, 10], "a small class gives all it has"
    assert chosen(6) < chosen(20) < chosen(60)
    assert chosen(20) == chosen(20) != chosen(20, seed=1)
    taken = splits.take(val=5, test=6)
    assert [len(images) for images in (taken.train, taken.val, taken.test)] == [60, 5, 6]


@pytest.mark.parametrize(
    ("count", "message"),
    [(61, "only 60 images"), (2, "3 classes"), (0, "3 classes"), (0.5, "whole number"), (True, "whole")],
)
def test_take_refuses(splits, count, message):
    with pytest.raises(ValueError, match=message):
        splits.take(test=count)


def test_label_noise_is_exact_nested_and_on_record(splits):
    def wrong(share, seed=0):
        train = splits.with_label_noise(share, seed=seed).train
        return {i: int(train.labels[i]) for i in train.wrong.tolist()}

    noisy = splits.with_label_noise(0.25)
    assert len(noisy.train.wrong) == 15
    assert noisy.train.labels[noisy.train.wrong].ne(noisy.train.true_labels[noisy.train.wrong]).all()
    assert torch.equal(noisy.train.true_labels, splits.train.labels)
    assert noisy.train.true_labels[noisy.train.wrong].bincount().tolist() == [5, 5, 5]
    assert wrong(0.25).items() < wrong(0.5).items(), "wrong at a quarter, wrong in the same way at a half"
    assert wrong(0.25) == wrong(0.25) != wrong(0.25, seed=1)
    assert len(set(wrong(1).values())) == 3
    for part in ("val", "test"):
        assert getattr(noisy, part) is getattr(splits, part)
    assert noisy.notes == ["Label noise: 15 of 60 training labels are wrong."]
    assert noisy.train.content == splits.train.content
    assert len(splits.with_label_noise(0).train.wrong) == 0


def test_label_noise_stays_on_record(splits):
    noisy = splits.with_label_noise(0.5)
    kept = noisy.take(train=12).plain().for_model(SMALL)
    pairs = {
        (image.tobytes(), int(label)) for image, label in zip(splits.train.sources, splits.train.labels, strict=True)
    }
    assert all(
        (image.tobytes(), int(label)) in pairs
        for image, label in zip(kept.train.sources, kept.train.true_labels, strict=True)
    )
    assert 0 < len(kept.train.wrong) < 12
    with pytest.raises(ValueError, match="30 labels are wrong already"):
        noisy.with_label_noise(0.1)


@pytest.mark.parametrize("share", [-0.1, 1.1, "half", True, float("nan")])
def test_label_noise_refuses(splits, share):
    with pytest.raises(ValueError, match=f"fraction={share!r}: give a number from 0"):
        splits.with_label_noise(share)
    one = data.ImageSet(np.zeros((3, 8, 8), np.uint8), [0, 0, 0], ["only"])
    with pytest.raises(ValueError, match="the one class only"):
        data.Splits("one", one, one, one, classes=["only"], preprocessing=SMALL).with_label_noise(0.5)


def test_class_balance_is_exact_and_nested(splits):
    def chosen(a, total=20, seed=0):
        shares = {"a": a, "b": 0.9 - a, "c": 0.1}
        train = splits.with_class_balance(shares, total=total, seed=seed).train
        return train.counts(), {x.tobytes() for x, label in zip(train.sources, train.labels, strict=True) if label == 0}

    assert chosen(0.6)[0] == [12, 6, 2]
    assert chosen(0.2)[1] < chosen(0.4)[1] < chosen(0.6)[1]
    assert chosen(0.4)[1] == chosen(0.4)[1] != chosen(0.4, seed=1)[1]
    full = splits.with_class_balance({"a": 0.5, "b": 0.3, "c": 0.2})
    assert full.train.counts() == [25, 15, 10], "as many as class c allows"
    assert splits.with_class_balance(dict.fromkeys("abc", 1 / 3), total=10).train.counts() == [4, 3, 3]
    assert full.val is splits.val
    assert full.test is splits.test


@pytest.mark.parametrize(
    ("shares", "total", "message"),
    [
        ({"a": 0.5, "b": 0.5}, None, "give one for each of a, b, c"),
        ({"a": 0.5, "b": 0.4, "cc": 0.1}, None, "give one for each of a, b, c"),
        ({"a": 0.5, "b": 0.4, "c": 0.2}, None, "add up to 1"),
        ({"a": 1.2, "b": -0.4, "c": 0.2}, None, "positive shares"),
        ({"a": 0.2, "b": 0.2, "c": 0.6}, 30, "18 of c, and there are 10"),
        ({"a": 0.98, "b": 0.01, "c": 0.01}, 20, "0 of b"),
    ],
)
def test_class_balance_refuses(splits, shares, total, message):
    with pytest.raises(ValueError, match=message):
        splits.with_class_balance(shares, total=total)


def test_loaders_are_the_same_for_a_seed(splits):
    def batches(seed, workers):
        torch.manual_seed(0)
        return [labels.tolist() for _, labels in splits.loaders(8, seed=seed, workers=workers).train]

    assert batches(1, 0) == batches(1, 0) == batches(1, 2) != batches(2, 0)
    first, second = (next(iter(splits.loaders(8, seed=1, workers=1).train))[0] for _ in range(2))
    assert torch.equal(first, second), "with workers the augmentation follows the seed too"


def test_loaders_shuffle_training_only(splits):
    loaders = splits.loaders(8)
    assert [len(loader) for loader in loaders] == [8, 4, 4]
    epochs = [torch.cat([labels for _, labels in loaders.train]).tolist() for _ in range(2)]
    assert epochs[0] != epochs[1]
    assert sorted(epochs[0]) == splits.train.labels.tolist()
    assert torch.cat([labels for _, labels in loaders.test]).tolist() == splits.test.labels.tolist()


def test_a_last_batch_of_one_is_left_out(splits):
    def sizes(count, batch_size):
        return [len(labels) for _, labels in splits.take(count).loaders(batch_size).train]

    assert sizes(33, 8) == [8] * 4
    assert sizes(34, 8) == [8] * 4 + [2]
    assert sizes(3, 1) == [1] * 3
    assert [len(labels) for _, labels in splits.take(val=17).loaders(8).val] == [16, 1]


def test_evaluating_draws_nothing_from_the_global_numbers(splits):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    list(splits.loaders(8).val)
    assert torch.equal(torch.rand(1), expected)


def test_splits_show_a_table(splits):
    lines = repr(splits).split("\n")
    assert lines[0] == "test: 3 classes, 16 x 16 pixels"
    assert lines[1].split() == ["part", "images", "a", "b", "c"]
    assert lines[3].split() == ["train", "60", "30", "20", "10"]
    noted = data.Splits("<b>", *[arrays()] * 3, classes=["a", "b", "c"], preprocessing=SMALL, notes=["1 < 2"])
    assert "<b>&lt;b&gt;</b>" in noted._repr_html_()
    assert "1 &lt; 2" in noted._repr_html_()
    assert repr(noted).endswith("\n1 < 2")


def test_the_table_of_many_classes_or_odd_names_shows_a_range():
    names = [f"class {i}" for i in range(8)]
    many = arrays(per_class=[1] * 7 + [3], classes=names)
    splits = data.Splits("many", many, many, many, names, SMALL)
    assert repr(splits).split("\n")[3].split() == ["train", "10", "1", "to", "3"]
    odd = arrays(classes=("a", "images", "part"))
    assert "10 to 30" in repr(data.Splits("odd", odd, odd, odd, odd.classes, SMALL))


def test_stratify_keeps_shares_and_spares_small_classes():
    labels = [0] * 100 + [1] * 3
    train, val, test = stratify(range(103), labels, [0.2, 0.3], seed=0)
    assert [sum(labels[i] == 0 for i in part) for part in (train, val, test)] == [50, 20, 30]
    assert [sum(labels[i] == 1 for i in part) for part in (train, val, test)] == [1, 1, 1]
    assert sorted(train + val + test) == list(range(103))
    with pytest.raises(ValueError, match="class 0 has 2 images for 3 parts"):
        stratify(range(2), [0, 0], [0.2, 0.2], seed=0)


@pytest.mark.parametrize("shares", [[0.2, 0.2], [0.01, 0.01], [0.5, 0.5], [0.98, 0.01], [0.01, 0.98], [0.9, 0.9]])
@pytest.mark.parametrize("size", [3, 4, 5, 40])
def test_every_part_has_an_image_of_each_class(shares, size):
    labels = [0] * size + [1] * 50
    parts = stratify(range(len(labels)), labels, shares, seed=0)
    assert [{labels[i] for i in part} for part in parts] == [{0, 1}] * 3
    assert sorted(position for part in parts for position in part) == list(range(len(labels)))


def test_the_order_is_the_same_on_every_system():
    assert shuffled("abcdef", 0) == [5, 2, 1, 4, 3, 0]


def test_export_and_load_again(splits, tmp_path):
    folder = data.export_folder(splits, tmp_path / "mine")
    assert sorted(path.name for path in (folder / "train" / "c").iterdir()) == [f"{i:04d}.png" for i in range(10)]
    again = data.from_folder(folder, model=SMALL)
    assert again.val.counts() == splits.val.counts()
    assert again.val.raw(0).tobytes() == splits.val.raw(0).tobytes()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(ValueError, match="mine exists and is not empty"):
        data.export_folder(splits, folder)
    (tmp_path / "empty").mkdir()
    assert data.export_folder(splits.take(3, 3, 3), tmp_path / "empty").is_dir()


# Catalog


def small_toypets(path):
    with zipfile.ZipFile(path, "w") as archive:
        for style in ("photo", "line"):
            for part, count in (("train", 4), ("val", 2), ("test", 3)):
                for name in ("dogs/pug", "cats/persian"):
                    for index in range(count):
                        with archive.open(f"{style}/{part}/{name}/{index:04d}.webp", "w") as file:
                            Image.new("RGB", (96, 96), (60 * index, 0, 0)).save(file, "WEBP")


def test_toypets(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "TOYPETS", tmp_path / "toypets.zip")
    with pytest.raises(ValueError, match=r"toypets\.zip is missing"):
        data.load("toypets")
    small_toypets(tmp_path / "toypets.zip")
    pets = data.load("toypets", train=2)
    assert pets.classes == ["cats", "dogs"]
    assert [images.counts() for images in (pets.train, pets.val, pets.test)] == [[1, 1], [2, 2], [3, 3]]
    assert pets.test[0][0].shape == (3, 64, 64)
    assert "Flip" in repr(pets.train.transform)


def test_the_packed_toypets():
    pets = data.load("toypets")
    assert [images.counts() for images in (pets.train, pets.val, pets.test)] == [[500, 500], [100, 100], [400, 400]]
    assert pets.val.raw(0).size == (96, 96)
    breeds = data.load("toypets-breeds")
    assert [images.counts() for images in (breeds.train, breeds.val, breeds.test)] == [[125] * 8, [25] * 8, [100] * 8]
    assert breeds.test.sources == pets.test.sources
    assert ((breeds.test.labels > 3) == (pets.test.labels == 1)).all(), "four breeds of cats, then four of dogs"


def test_the_catalog_names_what_is_in_the_packed_toypets():
    with zipfile.ZipFile(registry.TOYPETS) as archive:
        names = [name.split("/") for name in archive.namelist()]
    assert {style for style, *_ in names} == set(registry.STYLES)
    assert {part for _, part, *_ in names} == set(registry.PARTS)
    assert sorted({(species, breed) for _, _, species, breed, _ in names}) == [
        (registry.SPECIES[label > 3], breed) for label, breed in enumerate(registry.BREEDS)
    ]


@pytest.mark.parametrize("style", ["cartoon", "line", "silhouette"])
def test_toypets_in_other_styles(style):
    pets = data.load(f"toypets-{style}")
    assert [images.counts() for images in (pets.train, pets.val, pets.test)] == [[60, 60], [20, 20], [80, 80]]
    assert {source.member.split("/")[0] for source in pets.test.sources} == {style}


def test_digits_are_never_mirrored():
    digits = data.load("digits")
    assert [len(images) for images in (digits.train, digits.val, digits.test)] == [1078, 269, 450]
    assert "Flip" not in repr(digits.train.transform)
    assert np.asarray(digits.train.raw(0)).max() > 200, "greys are spread over 0 to 255"
    assert len({image.tobytes() for part in (digits.train, digits.val, digits.test) for image in part.sources}) == 1797
    assert data.load("digits", seed=5).test.content == digits.test.content, "the catalog's splits are fixed"
    assert "Random" not in repr(data.load("digits", augment=False).train.transform)


def test_the_full_profile_loads_large(monkeypatch):
    monkeypatch.setenv("TLCOURSE_PROFILE", "full")
    assert data.load("digits").preprocessing == Preprocessing(224, 232)
    assert data.load("digits", model=SMALL).preprocessing == SMALL


@pytest.mark.parametrize("name", ["toypet", "Dogs-vs-Cat", "imagenet", Path("nowhere"), "some/where"])
def test_unknown_names(name):
    with pytest.raises(ValueError, match=r"There is no") as caught:
        data.load(name)
    if "pet" in str(name) or "Cat" in str(name):
        assert "Did you mean" in str(caught.value)
    if isinstance(name, str) and "/" not in name:
        assert "toypets, toypets-breeds, toypets-cartoon" in str(caught.value)


def test_the_catalog_lists_what_load_knows():
    offline = [entry.name for entry in data.catalog() if not entry.download]
    styles = [f"toypets-{style}" for style in ("breeds", "cartoon", "line", "silhouette")]
    assert offline == ["toypets", *styles, "digits", "radiographs", "surfaces", "landuse"]
    for entry in data.catalog():
        assert entry.images > 0
        assert entry.licence
        assert entry.source


def test_hymenoptera_from_given_folder_leaves_the_error_image_out(tmp_path, monkeypatch):
    for part in ("train", "val"):
        for name in ("ants", "bees"):
            folder = tmp_path / "hymenoptera_data" / part / name
            folder.mkdir(parents=True)
            for index in range(4):
                Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / f"{index}.jpg")
    Image.new("P", (8, 8)).save(tmp_path / "hymenoptera_data" / "train" / "ants" / "imageNotFound.gif")
    monkeypatch.setenv("TLCOURSE_DATA", str(tmp_path))
    splits = data.load("hymenoptera")
    assert len(splits.train) + len(splits.val) == 8
    assert splits.test.counts() == [4, 4]
    assert "kept as test" in splits.notes[0]


def test_dogs_vs_cats_from_the_archives_folder(tmp_path, monkeypatch):
    for name in ("Cat", "Dog"):
        folder = tmp_path / "kagglecatsanddogs_5340" / "PetImages" / name
        folder.mkdir(parents=True)
        for index in range(10):
            Image.new("RGB", (8, 8)).save(folder / f"{index}.jpg")
        (folder / "666.jpg").touch()
        (folder / "Thumbs.db").touch()
    (tmp_path / "kagglecatsanddogs_5340" / "readme.txt").touch()
    monkeypatch.setenv("TLCOURSE_DATA", str(tmp_path))
    splits = data.load("dogs-vs-cats")
    assert splits.classes == ["cats", "dogs"] == splits.test.classes
    assert [images.counts() for images in (splits.train, splits.val, splits.test)] == [[6, 6], [2, 2], [2, 2]]
    assert "2 of 22 files cannot be read and were left out" in splits.notes[0]


@pytest.mark.real
@pytest.mark.parametrize(("name", "sizes"), [("hymenoptera", (195, 48, 153)), ("dogs-vs-cats", (1600, 400, 1000))])
def test_real_images(name, sizes, monkeypatch):
    folder = os.environ.get("TLCOURSE_REAL")
    if not folder:
        pytest.skip("TLCOURSE_REAL names no folder of real images")
    monkeypatch.setenv("TLCOURSE_DATA", folder)
    weights = models.ResNet50_Weights.IMAGENET1K_V2
    splits = data.load(name, model=weights)
    assert tuple(len(images) for images in (splits.train, splits.val, splits.test)) == sizes
    for loader in splits.take(train=8, val=8, test=8).loaders(8):
        images, labels = next(iter(loader))
        assert images.shape == (8, 3, 224, 224)
        assert labels.bincount().tolist() == [4, 4]
        assert 0.5 < images.std() < 2, "images, normalised, deviate by about one"
    raw = splits.test.raw(3)
    torch.testing.assert_close(splits.test[3][0], weights.transforms()(raw), atol=1e-5, rtol=0)
