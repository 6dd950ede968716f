"""Folders of images: layouts, splits that hold still, and what is said about folders that do not work."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from tlcourse import data, runtime
from tlcourse.data import folder_layout, folders
from tlcourse.preprocessing import Preprocessing

SMALL = Preprocessing(16, 20)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TLCOURSE_PROFILE", "mini")
    monkeypatch.setattr(runtime, "_current", None)
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


def fill(folder, cats=10, dogs=10, suffix=".jpg"):
    """Write small images into `folder/cats` and `folder/dogs`."""
    for name, count in (("cats", cats), ("dogs", dogs)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            pixels = np.random.default_rng(index).integers(0, 256, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}{suffix}")


def names(images, root):
    return [path.relative_to(root).as_posix() for path in images.sources]


def sizes(splits):
    return [len(images) for images in (splits.train, splits.val, splits.test)]


def refused(root, message, **options):
    with pytest.raises(ValueError, match=message) as caught:
        data.from_folder(root, model=SMALL, **options)
    return str(caught.value)


# Layouts


def test_class_folders_are_split_by_class(root):
    fill(root, cats=20, dogs=10)
    splits = data.from_folder(root, model=SMALL)
    assert splits.classes == ["cats", "dogs"]
    assert [images.counts() for images in (splits.train, splits.val, splits.test)] == [[12, 6], [4, 2], [4, 2]]
    everything = [name for images in (splits.train, splits.val, splits.test) for name in names(images, root)]
    assert len(set(everything)) == 30
    assert splits.notes == [
        "The images were split into 18 for training, 6 for validation and 6 for the test, in the same shares of each "
        "class (seed 0)."
    ]
    assert splits.name == "images"


def test_the_split_depends_on_names_and_seed_alone(root, tmp_path, monkeypatch):
    fill(root)
    first = data.from_folder(root, model=SMALL)
    expected = [names(images, root) for images in (first.train, first.val, first.test)]
    moved = tmp_path / "elsewhere" / "renamed"
    shutil.copytree(root, moved)
    listing, walking = folder_layout._entries, os.walk

    def backwards(top, **options):
        for place, below, files in walking(top, **options):
            yield place, below, files[::-1]

    monkeypatch.setattr(folder_layout, "_entries", lambda folder: tuple(found[::-1] for found in listing(folder)))
    monkeypatch.setattr(folder_layout.os, "walk", backwards)
    again = data.from_folder(moved, model=SMALL)
    assert [names(images, moved) for images in (again.train, again.val, again.test)] == expected
    other = data.from_folder(root, model=SMALL, seed=1)
    assert names(other.test, root) != expected[2]


def test_a_new_image_does_not_move_the_others(root):
    fill(root, cats=10)
    before = data.from_folder(root, model=SMALL)
    fill(root, cats=11)
    after = data.from_folder(root, model=SMALL)
    assert len(set(names(before.train, root)) & set(names(after.train, root))) >= len(before.train) - 1


@pytest.mark.parametrize(
    ("train", "val", "test"), [("train", "val", "test"), ("Training", "VALID", "Testing"), ("TRAIN", "dev", "test")]
)
def test_given_parts_are_kept(root, train, val, test):
    for name, count in ((train, 5), (val, 2), (test, 3)):
        fill(root / name, count, count)
    splits = data.from_folder(root, model=SMALL)
    assert sizes(splits) == [10, 4, 6]
    assert all(name.startswith(f"{val}/") for name in names(splits.val, root))
    assert splits.notes == []


def test_train_and_test_without_val(root):
    fill(root / "train")
    fill(root / "test", 3, 3)
    splits = data.from_folder(root, model=SMALL, val=0.3)
    assert sizes(splits) == [14, 6, 6]
    assert all(name.startswith("train/") for name in names(splits.val, root))
    assert splits.notes == ["There is no val folder: 6 images of train became val (30% of each class, seed 0)."]


def test_train_and_val_without_test_keeps_val_as_the_test(root):
    fill(root / "train")
    fill(root / "validation", 3, 3)
    splits = data.from_folder(root, model=SMALL)
    assert sizes(splits) == [16, 4, 6]
    assert all(name.startswith("validation/") for name in names(splits.test, root))
    assert all(name.startswith("train/") for name in names(splits.val, root))
    assert "the given val (6 images) is kept as test" in splits.notes[0]


def test_only_train(root):
    fill(root / "train")
    splits = data.from_folder(root, model=SMALL)
    assert sizes(splits) == [12, 4, 4]
    assert splits.notes[0].startswith("The images of train were split into 12")


def test_a_class_may_be_called_train(root):
    fill(root)
    (root / "dogs").rename(root / "train")
    assert data.from_folder(root, model=SMALL).classes == ["cats", "train"]


def test_clutter_is_ignored_and_other_files_are_counted(root):
    fill(root, suffix=".JPG")
    (root / "cats" / "nested" / "deeper").mkdir(parents=True)
    shutil.copy(root / "cats" / "0.JPG", root / "cats" / "nested" / "deeper" / "0.jpeg")
    for name in (".DS_Store", "cats/Thumbs.db", "cats/desktop.ini", "cats/._0.jpg"):
        (root / name).touch()
    for name in ("__MACOSX", ".ipynb_checkpoints", "cats/.hidden"):
        (root / name).mkdir()
        (root / name / "0.jpg").touch()
    for name in ("cats/list.txt", "dogs/phone.HEIC", "dogs/phone2.heic"):
        (root / name).touch()
    splits = data.from_folder(root, model=SMALL)
    assert sum(sizes(splits)) == 21
    assert splits.classes == ["cats", "dogs"]
    assert splits.notes[0] == "3 files that are not images were left out: 2 .heic, 1 .txt."


def test_folders_and_images_beside_the_parts_are_noted(root):
    fill(root / "train")
    fill(root / "extra")
    shutil.copy(root / "train" / "cats" / "0.jpg", root)
    notes = data.from_folder(root, model=SMALL).notes
    assert "Folders beside train were not read: extra." in notes
    assert "1 images lie beside the folders, have no class, and were left out." in notes


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_are_followed_but_not_in_circles(root, tmp_path):
    fill(tmp_path / "store")
    (root / "cats").symlink_to(tmp_path / "store" / "cats")
    (root / "dogs").symlink_to(tmp_path / "store" / "dogs")
    (tmp_path / "store" / "cats" / "again").symlink_to(tmp_path / "store" / "cats")
    assert sum(sizes(data.from_folder(root, model=SMALL))) == 20


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".TIFF"])
def test_every_kind_of_image(root, suffix):
    fill(root, 3, 3, suffix)
    assert data.from_folder(root, model=SMALL).test[0][0].shape == (3, 16, 16)


def test_augmentation_can_be_chosen(root):
    fill(root, 3, 3)
    assert "Random" not in repr(data.from_folder(root, model=SMALL, augment=False).train.transform)
    chosen = repr(data.from_folder(root, model=SMALL, augment={"flip": False, "rotation": 5}).train.transform)
    assert "RandomRotation" in chosen
    assert "Flip" not in chosen


def test_load_takes_a_path(root, monkeypatch):
    fill(root)
    assert len(data.load(root, model=SMALL, train=6, seed=2).train) == 6
    monkeypatch.chdir(root.parent)
    assert data.load("images").preprocessing == Preprocessing(64, 64)


# Folders that do not work


def test_missing_folder(root):
    refused(root / "nowhere", "There is no folder .*nowhere")


def test_a_file_instead_of_a_folder(root):
    (root / "a.zip").touch()
    refused(root / "a.zip", r"a\.zip is a file, not a folder")


def test_an_empty_folder(root):
    refused(root, "has no class folders.*cats/1.jpg")


def test_flat_images(root):
    fill(root, 4, 0)
    refused(root / "cats", "has 4 images but no class folders.*folder of its own")


@pytest.mark.parametrize("part", ["", "train"])
def test_flat_images_named_by_kaggle(root, part):
    (root / part).mkdir(exist_ok=True)
    for index in range(3):
        for name in ("cat", "dog"):
            Image.new("RGB", (8, 8)).save(root / part / f"{name}.{index}.jpg")
    if part:
        (root / "test1").mkdir()
        Image.new("RGB", (8, 8)).save(root / "test1" / "1.jpg")
    assert "word before the first dot" in refused(root, "has 6 images but no class folders.*Kaggle")


def test_flat_images_in_train(root):
    fill(root / "train", 3, 3)
    fill(root, 0, 2)
    (root / "dogs").rename(root / "test")
    (root / "cats").rmdir()
    assert "has 2 images but no class folders" in refused(root / "test", "CSV file.*--labels FILE")
    splits = data.from_folder(root, model=SMALL)
    assert sizes(splits) == [2, 2, 2]
    assert "The test folder has no class folders" in splits.notes[0]
    assert f"tlcourse predict MODEL {root / 'test'} --csv FILE" in splits.notes[0]


def test_one_class_only(root):
    fill(root, 5, 5)
    shutil.rmtree(root / "dogs")
    refused(root, "one class only, cats")


def test_one_folder_too_high(root):
    fill(root / "inner" / "train")
    fill(root / "inner" / "val")
    refused(root, "one class only, inner.*Did you mean .*inner, which has train, val")


def test_an_empty_class(root):
    fill(root)
    (root / "birds").mkdir()
    (root / "birds" / "list.txt").touch()
    refused(root, "birds has no images")


@pytest.mark.parametrize("beside", ["meta", "annotations"])
def test_classes_beside_a_folder_without_images(root, beside):
    fill(root / "images")
    (root / beside).mkdir()
    (root / beside / "train.txt").touch()
    refused(root, f"{beside} has no images.*take it out of .* Did you mean .*images")


def test_classes_that_differ_in_capitals_only_are_noted(root):
    fill(root)
    fill(root / "more")
    for name in ("cats", "dogs"):
        (root / "more" / name).rename(root / name.title().replace("Dogs", "birds"))
    (root / "more").rmdir()
    if len(list(root.iterdir())) == 4:  # some systems know one of the two only
        note = "Are these classes the same? They differ in capital letters only: Cats, cats."
        assert note in data.from_folder(root, model=SMALL).notes


def test_class_folders_that_differ(root):
    fill(root / "train")
    fill(root / "test")
    (root / "train" / "dogs").rename(root / "train" / "Dogs")
    refused(root, "differ: test lacks Dogs; train lacks dogs")


def test_no_train_folder(root):
    fill(root / "val")
    fill(root / "test")
    refused(root, "has test, val but no train folder")


def test_two_folders_for_one_part(root):
    for name in ("train", "val", "valid"):
        fill(root / name)
    refused(root, "two val folders, val and valid")


def test_a_class_too_small_to_be_in_every_part(root):
    fill(root, cats=2)
    refused(root, "too few images in cats. Each class needs at least 3")
    fill(root, cats=3)
    assert data.from_folder(root, model=SMALL).train.counts() == [1, 6]


@pytest.mark.parametrize(
    ("shares", "message"),
    [({"val": 0}, "val=0"), ({"test": 1.5}, "test=1.5"), ({"val": 0.5, "test": 0.5}, "nothing to train on")],
)
def test_shares_that_do_not_work(root, shares, message):
    refused(root, message, **shares)


def spoil(root):
    """Spoil three files: empty, cut short, not an image."""
    (root / "cats" / "0.jpg").write_bytes(b"")
    (root / "cats" / "1.png").write_text("<html>")
    for name, suffix in (("dogs/2", ".jpg"), ("dogs/3", ".png"), ("dogs/4", ".webp")):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
            root / f"{name}{suffix}"
        )
        content = (root / f"{name}{suffix}").read_bytes()
        (root / f"{name}{suffix}").write_bytes(content[: len(content) // 2])


def test_unreadable_files_are_found_before_training(root):
    fill(root)
    spoil(root)
    message = refused(root, r"5 of 23 files in .*images cannot be read")
    for line in ("cats/0.jpg: empty file", "cats/1.png: not an image", "dogs/2.jpg: ", "dogs/3.png: ", "dogs/4.webp: "):
        assert f"  {line}" in message
    assert "skip_unreadable=True" in message
    assert "--skip-unreadable" in message


def test_unreadable_files_are_left_out_on_request(root):
    fill(root)
    spoil(root)
    splits = data.from_folder(root, model=SMALL, skip_unreadable=True)
    assert sum(sizes(splits)) == 18
    assert splits.notes[0].startswith("5 of 23 files cannot be read and were left out:\n  cats/0.jpg: empty file")
    for images in (splits.train, splits.val, splits.test):
        assert len([image for image, _ in images]) == len(images)


def test_ten_unreadable_files_are_named(root):
    fill(root, cats=20)
    for index in range(13):
        (root / "cats" / f"{index}.jpg").write_bytes(b"")
    message = refused(root, "13 of 30 files")
    assert message.count("empty file") == 10
    assert "… and 3 more" in message


def test_a_class_without_any_readable_file(root):
    fill(root)
    for path in (root / "cats").iterdir():
        path.write_bytes(b"")
    refused(root, "no readable image of cats is left in train", skip_unreadable=True)


def test_large_folders_are_checked_once(root, cache, monkeypatch):
    monkeypatch.setattr(folders, "REMEMBERED", 20)
    checked = []
    find = folders.find_unreadable
    monkeypatch.setattr(folders, "find_unreadable", lambda paths: checked.append(len(paths)) or find(paths))
    fill(root)
    (root / "dogs" / "0.jpg").write_bytes(b"")
    for _ in range(2):
        refused(root, "dogs/0.jpg: empty file")
    assert checked == [20]
    fill(root)
    assert sum(sizes(data.from_folder(root, model=SMALL))) == 20
    assert checked == [20, 20], "a changed file is checked again"
    assert {path.suffix for path in (cache / "checked").iterdir()} == {".json"}


# What archives and other systems bring


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("training_set/training_set", "test_set/test_set"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("TrainingSet", "TestSet"),
        ("trainset", "testset"),
        ("train/images", "test/images"),
        ("train_images", "test_images"),
        ("ants_and_bees_train", "ants_and_bees_test"),
        ("Train Data", "Test Data"),
        ("train2017", "test2017"),
    ],
)
def test_parts_under_the_names_of_archives(root, train, test):
    fill(root / train, 5, 5)
    fill(root / test, 3, 3)
    if "seg" in train:  # images without labels, as in Kaggle's archive
        fill(root / "seg_pred", 2, 0)
        shutil.rmtree(root / "seg_pred" / "dogs")
        (root / "seg_pred" / "cats").rename(root / "seg_pred" / "seg_pred")
    splits = data.from_folder(root, model=SMALL)
    assert splits.classes == ["cats", "dogs"]
    assert sizes(splits) == [8, 2, 6]
    assert all(name.startswith(test) for name in names(splits.test, root))


def test_an_unlabelled_test_folder_beside_labelled_parts(root):
    fill(root / "train")
    fill(root / "val", 3, 3)
    (root / "test" / "images").mkdir(parents=True)
    shutil.copy(root / "val" / "cats" / "0.jpg", root / "test" / "images" / "0.jpg")
    splits = data.from_folder(root, model=SMALL)
    assert sizes(splits) == [16, 4, 6]
    assert "test folder has no class folders, so no labels" in splits.notes[0]
    assert f"{root / 'test' / 'images'} --csv FILE" in splits.notes[0]


@pytest.mark.parametrize("name", ["cats [old]", "cats*", "?"])
def test_one_class_with_signs_of_a_pattern_in_its_name(root, name):
    fill(root, 4, 0)
    shutil.rmtree(root / "dogs")
    (root / "cats").rename(root / name)
    (root / "labels.csv").touch()
    assert "labels.csv" in refused(root, "one class only")
    fill(root, 0, 4)
    shutil.rmtree(root / "cats")
    assert set(data.from_folder(root, model=SMALL).classes) == {name, "dogs"}


def test_names_that_only_look_different_are_one_class(root):
    composed, apart = "caf\u00e9", "cafe\u0301"
    for part, cats, dogs in (("train", composed, "dogs"), ("test", apart, "dogs ")):
        fill(root / part, 5, 5)
        (root / part / "cats").rename(root / part / cats)
        (root / part / "dogs").rename(root / part / dogs) if dogs != "dogs" else None
    splits = data.from_folder(root, model=SMALL)
    assert splits.classes == [composed, "dogs"]
    assert sizes(splits) == [8, 2, 10]
    fill(root / "train", 0, 5)
    (root / "train" / "cats").rename(root / "train" / "dogs ")
    refused(root, "two folders 'dogs'|has no images")


def test_the_split_is_the_same_in_both_forms_of_unicode(root, tmp_path):
    chosen = []
    for number, form in enumerate(("\u00e9", "e\u0301")):
        folder = tmp_path / f"copy{number}"
        fill(folder)
        for path in sorted((folder / "cats").iterdir()):
            path.rename(path.with_name(f"{form}{path.name}"))
        chosen.append([path.name[-5:] for path in data.from_folder(folder, model=SMALL).test.sources])
    assert chosen[0] == chosen[1]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_dead_links_are_said(root, monkeypatch):
    fill(root)
    (root / "cats" / "gone.jpg").symlink_to(root / "nowhere.jpg")
    monkeypatch.setattr(folders, "REMEMBERED", 5)
    assert "cats/gone.jpg" in refused(root, "1 of 21 files .* cannot be read")
    assert sum(sizes(data.from_folder(root, model=SMALL, skip_unreadable=True))) == 20
    (root / "birds").symlink_to(root / "nowhere")
    refused(root, "birds is a link to something that is not there")


def test_a_space_after_an_images_name(root):
    fill(root)
    (root / "cats" / "0.jpg").rename(root / "cats" / "0.jpg ")
    assert sum(sizes(data.from_folder(root, model=SMALL))) == 20


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".ppm", ".pgm", ".jp2", ".tga", ".ico", ".dds", ".qoi", ".sgi"])
def test_other_formats_that_pillow_reads(root, suffix):
    fill(root)
    for name in ("cats", "dogs"):
        Image.new("L" if suffix == ".pgm" else "RGB", (24, 24), 9).save(root / name / f"x{suffix}")
    assert sum(sizes(data.from_folder(root, model=SMALL))) == 22
    assert len(data.images_below(root)) == 22


def test_what_pillow_cannot_read_by_itself_is_no_image(root):
    fill(root)
    for suffix in (".pdf", ".eps", ".mpg", ".h5", ".wmf"):
        (root / "cats" / f"x{suffix}").write_bytes(b"%!PS")
    assert sum(sizes(data.from_folder(root, model=SMALL))) == 20


def test_parts_below_classes_and_folders_that_are_no_classes(root):
    for name in ("cats", "dogs"):
        fill(root / name / "train")
        fill(root / name / "test")
    refused(root, "the same ones below it: test, train. If .* parts, put them above the classes")
    for name in ("first", "second"):
        fill(root / "folds" / name)
    refused(root / "folds", "the same ones below it: cats, dogs. If these are the classes")
    fill(root / "other" / "images", 2, 0)
    fill(root / "other" / "masks", 2, 0)
    for name in ("images", "masks"):
        shutil.rmtree(root / "other" / name / "dogs")
    refused(root / "other", "images, masks, which are no classes")


def test_classes_with_the_same_folders_below_them_are_clear_below_train(root):
    for name in ("indoor", "outdoor"):
        fill(root / "cats" / name, 3, 3)
    refused(root / "cats", "the same ones below it: cats, dogs.*put them into a folder train: train/indoor/cats")
    (root / "train").mkdir()
    (root / "cats").rename(root / "train" / "cats")
    shutil.copytree(root / "train" / "cats", root / "train" / "dogs")
    splits = data.from_folder(root, model=SMALL)
    assert (splits.classes, sum(sizes(splits))) == (["cats", "dogs"], 24)


def test_a_copy_of_all_classes_and_a_part_under_another_name_are_no_classes(root):
    fill(root)
    fill(root / "images")
    refused(root, "Are the classes the folders in .*images: cats, dogs. Then give that folder")
    for name in ("cats", "dogs"):
        shutil.rmtree(root / name)
    shutil.copytree(root / "images" / "cats", root / "pets_testset" / "pets_testset")
    refused(root, "Are the classes the folders in .*images: cats, dogs")
    for name in ("labeled", "unlabeled"):
        shutil.copytree(root / "images" / "cats", root / "semi" / name)
    refused(root / "semi", "labeled, unlabeled, which are no classes")


def test_it_is_said_which_level_are_the_classes(root):
    fill(root / "2019")
    fill(root / "2020")
    (root / "2020" / "dogs").rename(root / "2020" / "birds")
    notes = data.from_folder(root, model=SMALL).notes
    assert "The classes are the upper folders, 2019, 2020; those inside, birds, cats, dogs, are not." in notes


def test_links_that_lead_up_are_left_out(root):
    fill(root, 5, 5)
    (root / "cats" / "all").symlink_to(root, target_is_directory=True)
    (root / "here").symlink_to(".", target_is_directory=True)
    splits = data.from_folder(root, model=SMALL)
    assert (splits.classes, sum(sizes(splits))) == (["cats", "dogs"], 10)


def test_the_folder_that_is_meant_may_lie_deeper(root):
    fill(root / "archive" / "images")
    refused(root, "one class only, archive.*Did you mean .*archive.images, which has cats, dogs")


def test_a_failed_note_about_checked_files_does_not_stop_loading(root, cache, monkeypatch):
    fill(root)
    monkeypatch.setattr(folders, "REMEMBERED", 5)
    cache.write_text("a file where the cache should be")
    assert sum(sizes(data.from_folder(root, model=SMALL))) == 20


# Labels from a CSV file


def table(root, *lines, name="train.csv"):
    (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root / name


@pytest.fixture
def unsorted(root):
    """Twelve images, in a folder that says nothing about their classes."""
    fill(root / "store", 12, 0)
    shutil.rmtree(root / "store" / "dogs")
    (root / "store" / "cats").rename(root / "images")
    (root / "store").rmdir()
    return root


@pytest.mark.parametrize(
    ("header", "form", "suffix"),
    [
        ("id,label", "{i},{c}", ""),
        ("image,species", "{i}.jpg,{c}", ""),
        ("file;label", "images/{i}.jpg;{c}", ""),
        ("label\tid", "{c}\t{i}", ""),
        ("id,sex,breed,label", "{i},m,x,{c}", ""),
        ("", "{i}.jpg,{c}", ""),
        ("\ufeffid,label", "{i},{c}", ""),
        ("id,label", '"{i}.jpg","{c}"', "\r"),
        ("path,labels,split", "images/images/{i}.jpg,{c},train", ""),
        ("path,label", ".\\images\\{i}.jpg,{c}", ""),
        (",id,label", "{back},{i},{c}", ""),  # pandas writes its index in front
        ("row,file,label", "{back},{i}.jpg,{c}", ""),
        ("row,scan,label", "{back},{i}.jpg,{c}", ""),
        ("Unnamed: 0,id,cat,dog", "{back},{i},{odd},{even}", ""),
        ("id,cat,dog", "{i},{odd},{even}", ""),
        ("id,cat,dog", "{i},{odd}.0,{even}.0", ""),
    ],
)
def test_labels_from_a_csv_file(unsorted, header, form, suffix):
    cells = [{"i": i, "back": 11 - i, "c": ("dog", "cat")[i % 2], "odd": i % 2, "even": 1 - i % 2} for i in range(12)]
    rows = [form.format(**cell) + suffix for cell in cells]
    file = table(unsorted, *([header + suffix] if header else []), *rows)
    splits = data.from_folder(unsorted, labels=file, model=SMALL)
    assert splits.classes == ["cat", "dog"]
    assert sum(sizes(splits)) == 12
    for images in (splits.train, splits.val, splits.test):
        for path, label in zip(images.sources, images.labels.tolist(), strict=True):
            assert splits.classes[label] == ("cat" if int(path.stem) % 2 else "dog")


def test_numbers_as_names_and_as_labels(unsorted):
    file = table(unsorted, "label,id", *(f"{i % 2},{i}" for i in range(12)))
    splits = data.from_folder(unsorted, labels=file, model=SMALL)
    assert (splits.classes, sum(sizes(splits))) == (["0", "1"], 12)


def test_a_column_that_says_train_or_test_gives_the_parts(unsorted):
    file = table(unsorted, "id,label,split", *(f"{i},{i % 2},{'Train' if i < 8 else 'test'}" for i in range(12)))
    splits = data.from_folder(unsorted, labels=file, model=SMALL)
    assert {int(path.stem) for path in splits.test.sources} == {8, 9, 10, 11}
    assert (splits.classes, sizes(splits)) == (["0", "1"], [6, 2, 4])
    assert splits.notes[0] == "The column 'split' of train.csv says which part an image is in."


def test_rows_without_image_and_images_without_row_are_noted(unsorted):
    fill(unsorted / "test", 12, 0)  # their names are those of the images of train
    shutil.rmtree(unsorted / "test" / "dogs")
    (unsorted / "images").rename(unsorted / "train")
    file = table(unsorted, "id,label", *(f"{i},{i % 2}" for i in range(10)), "77,0", "78,1")
    splits = data.from_folder(unsorted, labels=file, model=SMALL)
    assert sum(sizes(splits)) == 10
    assert all(name.startswith("train/") for name in names(splits.test, unsorted))
    assert splits.notes[0].startswith("14 images have no label in train.csv and were left out. `tlcourse predict")
    assert splits.notes[1].startswith("2 rows of train.csv name no image")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["id,label", "a,cat", "b,dog"], r"No row of .* names an image.*a row \['b', 'dog'\]"),
        (["id,cat,dog", "0,1,1", "1,0,1"], "Which column"),
        (["0,1,0", "1,0,1"], "Which column"),
        (["id,label", "0,cat", "1,"], "has no label for 1"),
        (["id,label", "0,cat", "1,nan"], "has no label for 1"),
        (["id,label", "0,cat", "0,dog"], "two labels for 0: cat and dog"),
        (["id,label", "0,cat", "1,cat"], "one class only, cat"),
        (
            [",x,label", "0,1,cat", "1,0,dog"],
            r"names images, column 1 \(''\) or column 2 \('x'\)\? Call it `file`",
        ),
        (["id,x,y1", "0,cat,2", "1,dog,2"], r"Which column .*Call it `label`"),
        (["id", "0", "1"], "is no table"),
        ([""], "is no table"),
    ],
)
def test_tables_that_do_not_work(unsorted, lines, message):
    refused(unsorted, message, labels=table(unsorted, *lines))


def test_the_parts_of_labelled_folders_stay_and_paths_may_be_of_another_machine(root):
    for part, first in (("train", 0), ("test", 20)):
        fill(root / part)
        for number, path in enumerate(sorted((root / part).rglob("*.jpg")), first):
            path.rename(root / part / f"{path.parent.name}.{number}.jpg")
    for name in ("cats", "dogs"):
        (root / "train" / name).rmdir()
        (root / "test" / name).rmdir()
    rows = [f"/kaggle/input/{path.parent.name}/{path.name},{path.name[:4]}" for path in sorted(root.rglob("*.jpg"))]
    (root / "labels.csv").write_text("\n".join(["path,label", *rows]))
    splits = data.from_folder(root, labels=root / "labels.csv", model=SMALL)
    assert {path.parent.name for path in splits.test.sources} == {"test"}
    assert {path.parent.name for part in (splits.train, splits.val) for path in part.sources} == {"train"}


def test_the_column_called_id_names_the_images_whatever_the_others_hold(root):
    fill(root, 10, 0)
    for path in (root / "cats").iterdir():
        path.rename(root / path.name)
    shutil.rmtree(root / "cats")
    shutil.rmtree(root / "dogs")
    table = root / "t.csv"
    table.write_text("id,source,label\n" + "\n".join(f"{i},raw/{9 - i}.jpg,{'ab'[i > 4]}" for i in range(10)))
    splits = data.from_folder(root, labels=table, model=SMALL)
    parts = (splits.train, splits.val, splits.test)
    found = {path.stem: label for part in parts for path, label in zip(part.sources, part.labels, strict=True)}
    assert {stem: int(label) for stem, label in found.items()} == {str(i): int(i > 4) for i in range(10)}
    table.write_text(
        "image_path,mask_path,label\n" + "\n".join(f"{i}.jpg,{9 - i}.jpg,{'ab'[i > 4]}" for i in range(10))
    )
    assert sum(sizes(data.from_folder(root, labels=table, model=SMALL))) == 10


def test_keras_needs_a_folder_around_unlabelled_images(root):
    fill(root / "train")
    fill(root / "test" / "unknown")
    shutil.move(root / "test" / "unknown" / "cats", root / "test" / "unknown" / "images")
    shutil.rmtree(root / "test" / "unknown" / "dogs")
    splits = data.from_folder(root, model=SMALL)
    assert splits.classes == ["cats", "dogs"]
    assert any("test folder has no class folders" in note for note in splits.notes)


def test_a_file_of_labels_that_cannot_be_read(unsorted):
    refused(unsorted, "labels in .*no.csv cannot be read .No such file", labels=unsorted / "no.csv")
    (unsorted / "x.csv").write_bytes(b"\xff\xfe\x00\x80")
    refused(unsorted, "cannot be read as a CSV file", labels=unsorted / "x.csv")
