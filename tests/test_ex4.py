"""Exercise 4: right answers in any spelling are right; each usual mistake is refused, and named."""

import random

import judges
import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from test_ex2 import DOWN, TIE, UP, runs
from timm.data import create_transform
from torch import nn
from torch.nn import functional as F
from torchvision import transforms as v1
from torchvision.transforms import v2
from torchvision.transforms.functional import pil_to_tensor, rotate

import tlcourse as tl
from tlcourse.lessons.exercises import probes

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TO_TENSOR = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
SMALL = v2.Resize((64, 64))
BICUBIC, BILINEAR = v2.InterpolationMode.BICUBIC, v2.InterpolationMode.BILINEAR


def of(*steps, end=TO_TENSOR, compose=v2.Compose):
    """Return a function that returns the transform of these steps."""
    return lambda: compose([*steps, *end])


CROP = v2.RandomResizedCrop(64, scale=(0.8, 1), ratio=(1, 1))
TURN, MIRROR, LIGHT = v2.RandomRotation(15), v2.RandomHorizontalFlip(), v2.ColorJitter(brightness=0.3)


def faces_by_hand():
    def transform(image):
        image = image.rotate(random.uniform(-14, 14)).resize((64, 64))
        if np.random.rand() < 0.5:
            image = ImageOps.mirror(image)
        image = ImageEnhance.Brightness(image).enhance(random.uniform(0.7, 1.3))
        return torch.from_numpy(np.asarray(image) / 255).permute(2, 0, 1).float()

    return transform


def faces_as_a_module():
    class Faces(nn.Module):
        def forward(self, image):
            x = SMALL(pil_to_tensor(image) / 255)
            x = rotate(x, float(torch.empty(1).uniform_(-15, 15)))
            x = x.flip(2) if torch.rand(1) < 0.5 else x
            return (x * torch.empty(1).uniform_(0.7, 1.2)).clamp(0, 1)

    return Faces()


def faces_by_version_one():
    steps = [v1.RandomAffine(12, scale=(1, 1.1)), v1.Resize((64, 64)), v1.RandomHorizontalFlip(0.5)]
    return v1.Compose([*steps, v1.ColorJitter(0.2, 0.2), v1.ToTensor()])


TURNED = {k: v2.RandomRotation((k, k)) for k in (0, 90, 180, 270)}
QUARTERS = v2.RandomChoice([*TURNED.values()])


def turned_by_chance(*shares):
    return v2.RandomChoice([*TURNED.values()], p=shares)


def tiles_by_hand():
    def transform(image):
        x = np.asarray(image.resize((64, 64)), dtype=np.float32) / 255
        x = np.rot90(x, random.randrange(4))
        x = x[:, ::-1] if random.random() < 0.5 else x
        return torch.from_numpy(x.copy()).permute(2, 0, 1)

    return transform


def tiles_by_transposing():
    def transform(image):
        x = SMALL(pil_to_tensor(image)).float() / 255
        for change in (lambda x: x.flip(1), lambda x: x.flip(2), lambda x: x.transpose(1, 2)):
            if torch.rand(()) < 0.5:
                x = change(x)
        return x

    return transform


def own_generator():
    rng = random.Random(0)

    def transform(image):
        x = SMALL(pil_to_tensor(image)).float() / 255
        return torch.rot90(x, rng.randrange(4), (1, 2)).flip(2 - rng.randrange(2))

    return transform


def letters_by_hand():
    def transform(image):
        image = image.resize((64, 64)).rotate(
            random.uniform(-10, 10), translate=(random.randint(-6, 6), random.randint(-6, 6)), fillcolor="white"
        )
        return v1.functional.to_tensor(image)

    return transform


def moved(rule):
    """Return an answer whose moves and turn are what a rule makes of three random numbers."""

    def transform(image):
        x, y, turn = rule(*(random.uniform(-1, 1) for _ in range(3)))
        side = image.width / 10
        image = image.rotate(10 * turn, translate=(side * x, side * y), fillcolor="white")
        return v1.functional.to_tensor(image.resize((64, 64)))

    return lambda: transform


def evaluation_by_hand():
    def transform(image):
        scale = 64 / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        x, y = (image.width - 64) // 2, (image.height - 64) // 2
        image = np.asarray(image.crop((x, y, x + 64, y + 64)), dtype=np.float32) / 255
        return torch.from_numpy(((image - MEAN) / STD).astype(np.float32)).permute(2, 0, 1)

    return transform


NORMAL = v2.Normalize(MEAN, STD)
MIDDLE = [v2.Resize(64), v2.CenterCrop(64)]
WAYS = ("plain", "augmented")


def two(*args, **options):
    """Return runs under this exercise's names."""
    return runs(*args, ways=WAYS, **options)


GOOD = {"faces": {"mirror", "small turn"}, "tiles": set(tl.lessons.exercises.ex4.CHANGES), "letters": {"small turn"}}
RIGHT = {
    "keeps": [
        GOOD,
        {kind: sorted(names, reverse=True) for kind, names in GOOD.items()},
        {kind: tuple(name.upper() for name in names) for kind, names in GOOD.items()},
    ],
    "faces": [
        of(TURN, CROP, MIRROR, LIGHT),
        faces_by_hand,
        faces_as_a_module,
        faces_by_version_one,
        of(TURN, v2.RandomResizedCrop(64, scale=(2 / 3, 1)), MIRROR, LIGHT),
        of(SMALL, TURN, MIRROR, v2.RandomPhotometricDistort(p=1)),
        of(SMALL, end=[*TO_TENSOR, v2.ColorJitter(0.4), MIRROR, v2.RandomRotation(15, interpolation=BILINEAR)]),
    ],
    "tiles": [
        of(SMALL, QUARTERS, MIRROR),
        of(QUARTERS, v2.RandomVerticalFlip(), v2.RandomResizedCrop(64, scale=(0.6, 1), ratio=(1, 1))),
        tiles_by_hand,
        tiles_by_transposing,
        of(SMALL, MIRROR, v2.RandomVerticalFlip(), v2.RandomApply([TURNED[90]])),
        of(QUARTERS, MIRROR, v2.RandomResizedCrop(64, scale=(0.5, 1))),
        of(
            SMALL,
            v2.RandomChoice([v2.Compose([TURNED[k], v2.RandomHorizontalFlip(p)]) for k in TURNED for p in (0, 1)]),
        ),
    ],
    "letters": [
        of(v2.RandomAffine(10, translate=(0.1, 0.1), fill=255), SMALL),
        of(v2.RandomAffine(10, translate=(0.1, 0.1), fill=255), v2.Resize((64, 64), BICUBIC)),
        of(SMALL, end=[*TO_TENSOR, v2.RandomAffine(9, (0.09, 0.09), fill=1.0, interpolation=BILINEAR)]),
        of(SMALL, end=[*TO_TENSOR, v2.RandomAffine(9, translate=(0.09, 0.09), fill=1.0)]),
        letters_by_hand,
        moved(lambda x, y, turn: (x, y, turn)),
        of(end=[*TO_TENSOR, v2.RandomAffine(10, (0.1, 0.1), fill=1.0, interpolation=BILINEAR), SMALL]),
        of(SMALL, v2.RandomRotation(10, fill=255), v2.RandomCrop(64, padding=6, fill=255)),
        of(SMALL, v2.RandomRotation(10, fill=255, interpolation=BICUBIC), v2.RandomAffine(0, (0.1, 0.1), fill=255)),
        of(v2.ColorJitter(0.2), v2.RandomAffine(10, (0.1, 0.1), fill=255), SMALL),
    ],
    "evaluation": [
        of(*MIDDLE, end=[*TO_TENSOR, NORMAL]),
        lambda: create_transform((3, 64, 64), crop_pct=1.0, interpolation="bilinear"),
        lambda: v1.Compose([v1.Resize(64), v1.CenterCrop(64), v1.ToTensor(), v1.Normalize(MEAN, STD)]),
        evaluation_by_hand,
        lambda: tl.data.load("landuse", model=tl.models.create("tl_resnet", 4)).preprocessing.evaluation(),
        lambda: lambda image: NORMAL(v1.functional.to_tensor(ImageOps.fit(image, (64, 64)))),
        of(end=[*TO_TENSOR, *MIDDLE, NORMAL]),
    ],
    "gain": [(two(UP), "better"), (two(DOWN), "Worse"), [two(), TIE]],
}


def changed(kind, *, add=(), drop=()):
    return GOOD | {kind: (GOOD[kind] | set(add)) - set(drop)}


WRONG = {
    "keeps": [
        (changed("letters", add=["mirror"]), "a mirrored b is a d"),
        (changed("letters", add=["half turn"]), "is a q"),
        (changed("letters", add=["quarter turn"]), "on its side"),
        (changed("letters", drop=["small turn"]), "'small turn' is missing"),
        (changed("faces", add=["half turn"]), "stand on their heads"),
        (changed("faces", add=["quarter turn"]), "lie on their side"),
        (changed("faces", drop=["mirror"]), "smiles as before"),
        (changed("tiles", drop=["half turn"]), "no direction is special"),
        (changed("tiles", drop=["small turn"]), "no direction is special"),
        (GOOD | {"tiles": "mirror"}, "Give a set of names"),
        ({kind: {name: name in GOOD[kind] for name in GOOD["tiles"]} for kind in GOOD}, "Give a set of names"),
        (GOOD | {"faces": {"flip"}}, "'flip' is none of the changes"),
        ({"faces": {"mirror"}}, "with the keys"),
        ({"mirror"}, "Give a dictionary"),
    ],
    "faces": [
        (of(TURN, CROP, MIRROR, v2.RandomVerticalFlip(), LIGHT), "vertical flip"),
        (of(v2.RandomRotation(45), CROP, MIRROR, LIGHT), "and up to 15 in both directions"),
        (of(CROP, MIRROR, LIGHT), "turned by 0 to 0 degrees"),
        (of(CROP, MIRROR, v2.RandomRotation((0, 15)), LIGHT), "turned by 0 to 14 degrees"),
        (of(v2.RandomRotation(4), CROP, MIRROR, LIGHT), "turned by -4 to 4 degrees"),
        (of(TURN, CROP, LIGHT), "0% of the draws are mirrored"),
        (of(TURN, CROP, v2.RandomHorizontalFlip(1), LIGHT), "100% of the draws are mirrored"),
        (of(TURN, v2.RandomResizedCrop(64), MIRROR, LIGHT), "of the image's area"),
        (of(v2.RandomRotation(10), CROP, MIRROR, LIGHT), "turned by -10 to 10 degrees, and up to 15"),
        (of(CROP, MIRROR, v2.RandomRotation((-5, 15)), LIGHT), "turned by -5 to 14 degrees"),
        (of(v2.RandomRotation((0, 15)), CROP, MIRROR, LIGHT), "faces that aren't mirrored are turned by 0 to 15"),
        (of(v2.RandomRotation((15, 15)), CROP, MIRROR, LIGHT), "the angle has to be drawn anew"),
        (of(QUARTERS, CROP, MIRROR, LIGHT), "turned by -180 to 180 degrees"),
        (of(TURN, CROP, MIRROR, end=[*TO_TENSOR, lambda x: x * (1 + torch.rand(1))]), "white becomes 1."),
        (lambda: [TURN, CROP, MIRROR, LIGHT, *TO_TENSOR], "into one `v2.Compose`"),
        (of(TURN, CROP, v2.RandomHorizontalFlip(0.3), LIGHT), "30% of the draws are mirrored"),
        (of(CROP, LIGHT, v2.RandomChoice([TURN, MIRROR])), "mirrored faces are turned by 0 to 0"),
        (of(v2.Resize((80, 80)), v2.RandomCrop(64), TURN, MIRROR, LIGHT), "shows 62% of the image's area"),
        (of(CROP, MIRROR, LIGHT, end=[*TO_TENSOR, v2.RandomRotation(15, fill=255)]), "empty corners get 255"),
        (of(TURN, CROP, MIRROR, v2.ColorJitter(hue=0.3)), "the same brightness"),
        (of(TURN, CROP, MIRROR), "the same brightness"),
        (of(SMALL, MIRROR, TURN), "the same brightness"),
        (of(v2.Resize(64), TURN, MIRROR, LIGHT), "(3, 64, 96)"),
        (of(TURN, CROP, MIRROR, LIGHT, end=[*TO_TENSOR, NORMAL]), "Normalising is not asked for here"),
        (of(TURN, CROP, MIRROR, LIGHT, end=[v2.ToImage()]), "whole numbers"),
        (of(TURN, CROP, MIRROR, LIGHT, end=[v2.ToImage(), v2.ToDtype(torch.float32)]), "between 0 and 1"),
        (of(TURN, CROP, MIRROR, LIGHT, end=[]), "gives an Image"),
        (of(TURN, MIRROR, LIGHT), "an image becomes (3, 64, 96)"),
        (of(TURN, CROP, MIRROR, LIGHT)(), "Give a function"),
        (lambda: torch.zeros(3, 64, 64), "returns a Tensor"),
    ],
    "tiles": [
        (of(SMALL, MIRROR), "2 of eight orientations occur: a turn by 90 degrees is missing"),
        (of(SMALL, MIRROR, v2.RandomVerticalFlip()), "4 of eight orientations occur: a turn by 90 degrees is missing"),
        (of(SMALL, QUARTERS), "a turn by 0 degrees, mirrored, is missing"),
        (of(v2.RandomRotation(180), SMALL, MIRROR), "corners are empty"),
        (of(v2.RandomRotation(90), SMALL, MIRROR), "corners are empty"),
        (of(SMALL, QUARTERS, MIRROR, v2.ColorJitter(0.3)), "colours change"),
        (of(SMALL, QUARTERS, MIRROR, v2.ColorJitter(hue=0.3)), "colours change"),
        (
            of(SMALL, v2.RandomChoice([v2.RandomRotation((k, k)) for k in (0, 90, 180)]), MIRROR),
            "6 of eight orientations occur: a turn by 90 degrees, mirrored, is missing",
        ),
        (of(SMALL, QUARTERS, v2.RandomHorizontalFlip(0.15)), "of the draws are mirrored"),
        (of(SMALL, v2.RandomApply([QUARTERS], 0.4), MIRROR), "of the draws are turned by 0 degrees"),
        (of(QUARTERS, MIRROR, v2.RandomResizedCrop(64, scale=(0.1, 0.3), ratio=(1, 1))), "of the image's area"),
        (of(SMALL, QUARTERS, MIRROR, end=[*TO_TENSOR, NORMAL]), "Normalising is not asked for"),
        (of(SMALL, turned_by_chance(0.35, 0.35, 0.15, 0.15), MIRROR), "35% of the draws are turned by 0 degrees"),
        (of(SMALL, turned_by_chance(0.15, 0.35, 0.15, 0.35), MIRROR), "a quarter is asked for"),
        (of(SMALL, MIRROR, v2.RandomVerticalFlip(), v2.RandomApply([TURNED[90]], 0.3)), "a quarter is asked for"),
        (of(SMALL, QUARTERS, v2.RandomHorizontalFlip(0.35)), "35% of the draws are mirrored"),
        (
            of(SMALL, v2.RandomChoice([QUARTERS, v2.RandomHorizontalFlip(1)])),
            "a turn by 90 degrees, mirrored, is missing",
        ),
        (of(SMALL, QUARTERS, MIRROR, v2.RandomGrayscale()), "colours change"),
        (of(SMALL, QUARTERS, MIRROR, v2.RandomAutocontrast()), "colours change"),
        (of(SMALL, QUARTERS, MIRROR, v2.RandomEqualize(1)), "colours change"),
        (of(SMALL, QUARTERS, MIRROR, v2.RandomSolarize(128)), "colours change"),
        (of(SMALL, QUARTERS, MIRROR, v2.RandomAffine(0, (0.2, 0.2))), "something is left empty"),
        (of(SMALL, QUARTERS, MIRROR, end=[*TO_TENSOR, v2.RandomErasing()]), "or erased"),
        (lambda: None, "returns a NoneType"),
        (own_generator, "a generator of its own"),
    ],
    "letters": [
        (of(v2.RandomAffine(10, translate=(0.1, 0.1), fill=255), SMALL, MIRROR), "are mirrored"),
        (of(v2.RandomAffine(30, translate=(0.1, 0.1), fill=255), SMALL), "turned by -29 to 30 degrees, and up to 10"),
        (of(v2.RandomAffine(0, translate=(0.1, 0.1), fill=255), SMALL), "turned by 0 to 0 degrees"),
        (of(v2.RandomAffine((0, 10), translate=(0.1, 0.1), fill=255), SMALL), "turned by -10 to 0 degrees"),
        (of(v2.RandomAffine(10, translate=(0.3, 0.1), fill=255), SMALL), "moved left and right by -27 to 30 %"),
        (of(v2.RandomAffine(10, translate=(0.1, 0.4), fill=255), SMALL), "moved up and down by -"),
        (of(v2.RandomRotation(10, fill=255), SMALL), "moved left and right by 0 to 0 %"),
        (of(v2.RandomAffine(10, translate=(0.1, 0), fill=255), SMALL), "moved up and down by -2 to 1 %"),
        (of(v2.RandomAffine(10, translate=(0.1, 0.1)), SMALL), "See `fill`"),
        (of(v2.RandomAffine(10, translate=(0.1, 0.1), scale=(0.6, 1.4), fill=255), SMALL), "size of the letter"),
        (of(v2.RandomAffine(10, (0.1, 0.1), (0.95, 1.05), fill=255), SMALL), "size of the letter changes"),
        (of(v2.RandomAffine(10, (0.05, 0.1), fill=255), SMALL), "left and right by -4 to 5 %"),
        (of(v2.RandomAffine((-3, 10), (0.1, 0.1), fill=255), SMALL), "turned by -10 to 3 degrees"),
        (of(v2.RandomAffine(10, (0.1, 0.1), fill=128), SMALL), "See `fill`"),
        (of(v2.RandomAffine(10, (0.1, 0.1), fill=230), SMALL), "aren't as white as the paper"),
        (of(v2.RandomAffine(10, (0.1, 0.1), fill=255), SMALL, v2.RandomInvert(1)), "paper stays white"),
        (of(v2.RandomAffine(8, (0.1, 0.1), shear=10, fill=255), SMALL), "slanted or squeezed"),
        (moved(lambda x, y, turn: (x, x, turn)), "the move up and down follows the move left and right"),
        (moved(lambda x, y, turn: (x, -x, turn)), "the move up and down follows the move left and right"),
        (moved(lambda x, y, turn: (x, y, x)), "the move left and right follows the turn"),
        (of(SMALL, end=[*TO_TENSOR, v2.RandomAffine(10, (0.1, 0.1), fill=255)]), "after `TO_TENSOR`, white is 1"),
        (of(SMALL), "turned by 0 to 0 degrees"),
    ],
    "evaluation": [
        (of(*MIDDLE), "not normalised"),
        (of(SMALL, end=[*TO_TENSOR, NORMAL]), "squashed"),
        (of(v2.RandomResizedCrop(64), end=[*TO_TENSOR, NORMAL]), "drawn at random"),
        (of(*MIDDLE, MIRROR, end=[*TO_TENSOR, NORMAL]), "drawn at random"),
        (of(*MIDDLE, end=[*TO_TENSOR, NORMAL, NORMAL]), "normalised twice"),
        (of(*MIDDLE, end=[*TO_TENSOR, v2.Normalize((0.5,) * 3, (0.5,) * 3)]), "with 0.5 and 0.5"),
        (of(*MIDDLE, end=[*TO_TENSOR, v2.Normalize((0, 0, 0), STD)]), "mean is not subtracted"),
        (of(*MIDDLE, end=[v2.ToImage(), v2.ToDtype(torch.float32), NORMAL]), "scaled by 255"),
        (of(*MIDDLE, end=[*TO_TENSOR, lambda x: x.flip(0), NORMAL]), "another order"),
        (of(v2.Resize(96), v2.CenterCrop(64), end=[*TO_TENSOR, NORMAL]), "shorter side becomes 64 pixels"),
        (of(v2.Resize(70), v2.CenterCrop(64), end=[*TO_TENSOR, NORMAL]), "shorter side becomes 64 pixels"),
        (of(v2.CenterCrop(64), end=[*TO_TENSOR, NORMAL]), "shorter side becomes 64 pixels"),
        (of(*MIDDLE, end=[*TO_TENSOR, v2.Normalize(MEAN, (1, 1, 1))]), "not divided by STD"),
        (of(*MIDDLE, end=[*TO_TENSOR, v2.Normalize(STD, MEAN)]), "MEAN and STD have changed places"),
        (of(*MIDDLE, end=[*TO_TENSOR, lambda x: x / 255, NORMAL]), "divided by 255 twice"),
        (of(*MIDDLE, end=[*TO_TENSOR, v2.Normalize((0.4,) * 3, (0.4,) * 3)]), "normalised in another way"),
        (of(*MIDDLE, end=[*TO_TENSOR, NORMAL, lambda x: x.clamp(0, 1)]), "cut off"),
        (of(*MIDDLE, v2.Grayscale(3), end=[*TO_TENSOR, NORMAL]), "the colours are gone"),
        (of(*MIDDLE, v2.RandomHorizontalFlip(1), end=[*TO_TENSOR, NORMAL]), "the image is mirrored"),
        (of(*MIDDLE, end=[*TO_TENSOR, NORMAL, lambda x: x.mT]), "rows and columns have changed places"),
        (lambda: lambda image: torch.zeros(3, 64, 64), "nothing of the image is left"),
        (of(v2.CenterCrop(64), end=[*TO_TENSOR, NORMAL]), "24% of the area is seen"),
        (of(v2.Resize(64), end=[*TO_TENSOR, NORMAL]), "(3, 64, 106)"),
        (of(v2.Resize(32), v2.CenterCrop(64), end=[*TO_TENSOR, NORMAL]), "or in another size"),
        (of(*MIDDLE, end=[*TO_TENSOR, NORMAL, lambda x: x[None]]), "(1, 3, 64, 64)"),
        (of(*MIDDLE, end=[NORMAL, *TO_TENSOR]), "TypeError"),
        (of(*MIDDLE, end=[*TO_TENSOR, NORMAL])(), "Give a function"),
    ],
    "gain": [
        ((two(), "better"), "holds zero"),
        ((two(UP), TIE), "leaves out zero"),
        ((two(UP[:3]), "better"), "3 seeds"),
        ((runs(UP), "better"), "no runs named"),
        ((two((0.0,) * 5, same=True), TIE), "did not reach the training"),
        (two(), "two things"),
    ],
}
test_the_bank_is_large_enough, test_right_answers_are_right, test_wrong_answers_are_refused_and_named = judges.bank(
    "ex4", RIGHT, WRONG, each=(3, 6), in_all=(0, 60)
)


@pytest.mark.parametrize("degrees", [-170, -20, 0, 7, 90])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("end", [TO_TENSOR, [*TO_TENSOR, NORMAL]], ids=["raw", "normalised"])
def test_a_view_is_measured_whatever_else_is_done(degrees, mirrored, end):
    steps = [v2.RandomRotation((degrees, degrees)), v2.CenterCrop(112), SMALL, v2.ColorJitter(0.2, 0.2)]
    found = probes.view(v2.Compose([*steps, *[v2.RandomHorizontalFlip(1)] * mirrored, *end]), 0)
    wanted = -degrees if mirrored else degrees
    assert abs((found.degrees - wanted + 180) % 360 - 180) < 1
    assert found.mirrored == mirrored
    assert abs(found.share - (112 / 128) ** 2) < 0.03


def test_values_that_are_not_finite_are_refused():
    transform = of(SMALL, end=[*TO_TENSOR, lambda x: F.normalize(x) / 0])
    assert "not finite" in tl.check("ex4/evaluation", transform).message
