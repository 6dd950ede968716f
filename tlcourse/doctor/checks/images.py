"""Checks of what the model is shown: sizes, colours, and whether validation and test images stay the same."""

from math import exp

import torch

from tlcourse.doctor.parts import Part
from tlcourse.doctor.report import Findings, listed, note, suspicious, wrong
from tlcourse.doctor.setup import Setup

MISMATCH = 1.4  # a median factor of four in variance at the first batch norm; images differ by less, units by more
DRAWS = 6  # times that the same image is drawn
COARSE_STEP = 0.02  # means and deviations that differ by less are the same, rounded


def items_can_be_read(setup: Setup) -> Findings:
    """Every item that is looked at can be read, makes a batch with the others, and has floating-point values."""
    for part in setup.parts:
        images = part.sample[0] if part.sample is not None else None  # reading fills in the faults
        if part.faults:
            yield wrong("unreadable", f"{len(part.faults)} faults, such as {listed(part.faults, 2)}", part=part.name)
        if images is not None and not images.is_floating_point():
            evidence = f"{images.dtype}, {images.min()} to {images.max()}"
            yield suspicious("not-normalised/whole-numbers", evidence, part=part.name)


def images_are_normalised(setup: Setup) -> Findings:
    """A pre-trained backbone wants the mean and deviation that it was trained with."""
    part, wanted = setup.sample_part, setup.preprocessing
    if part is None or wanted is None or (setup.pretrained is False and not setup.norms):
        return
    images = part.sample[0]
    if not images.is_floating_point() or images.ndim != 4 or images.shape[1] != 3:
        return
    fault, sure = _wrong_colours(part, images, wanted.mean, wanted.std)
    if not fault:
        return
    found = _described(images.mean((0, 2, 3)), images.std((0, 2, 3)))
    evidence = f"{fault}; {len(images)} images of the {part.name} part have {found}, from {images.min():.3g} to "
    evidence += f"{images.max():.3g}; the model's weights want {_described(wanted.mean, wanted.std)}"
    mismatch = setup.answers.bn_mismatch
    if mismatch is None:
        random = not setup.pretrained
    else:  # the first batch norm has seen nothing yet: it holds zeros and ones
        first = setup.norms[0].module
        random = setup.pretrained is not None and not first.running_mean.any() and bool((first.running_var == 1).all())
        sure = sure and mismatch > MISMATCH
        if not random:
            evidence += f"; the first batch norm sees values a factor of {exp(mismatch):.1f} from what it remembers"
    if random:
        yield note("not-normalised/random-weights", evidence)
    else:
        yield (wrong if sure else suspicious)("not-normalised", evidence)


def images_have_the_size(setup: Setup) -> Findings:
    """A network that was trained at one size sees other scales at another."""
    if setup.sample_part is None or setup.preprocessing is None or not setup.pretrained:
        return
    images, size = setup.sample_part.sample[0], setup.preprocessing.size
    height, width = images.shape[-2:] if images.ndim == 4 else (size, size)
    factor = max(size / min(height, width), max(height, width) / size)
    if factor > 1:
        evidence = f"{height} x {width} instead of {size} x {size} pixels"
        yield (suspicious if factor >= 2 else note)("input-size", evidence, size=size)


def evaluation_images_stay_the_same(setup: Setup) -> Findings:
    """Validation and test images are the same each time: no augmentation."""
    for part in setup.parts:
        if not part.evaluated:
            continue
        names = listed(part.random_transforms)
        changing = next((index for index in part.spread(4) if _changes(part, index)), None)
        if changing is not None:
            evidence = f"item {changing} was drawn {DRAWS} times and came out differently"
            evidence += f"; its transform has {names}" if names else ""
            yield wrong("augmented-evaluation", evidence, part=f"The {part.name} part")
        elif names and len(part):
            evidence = f"{names}; {DRAWS} draws of {len(part.spread(4))} items were the same"
            yield suspicious("augmented-evaluation/no-effect", evidence, part=part.name)


def _changes(part: Part, index: int) -> bool:
    try:
        first, *others = (part.dataset[index][0] for _ in range(DRAWS))
        return isinstance(first, torch.Tensor) and not all(torch.equal(first, other) for other in others)
    except Exception:  # `items_can_be_read` reports it
        return False


def _wrong_colours(part: Part, images: torch.Tensor, mean: tuple, std: tuple) -> tuple[str, bool]:
    """Say in which way images are not normalised by `mean` and `std`, or "", and whether that is sure."""
    given = [(step.mean, step.std) for step in part.transforms if hasattr(step, "mean") and hasattr(step, "std")]
    if given and given[-1][0] is not None:
        own = [torch.as_tensor(values, dtype=torch.float).flatten() for values in given[-1]]
        if any((a - torch.tensor(b)).abs().max() > COARSE_STEP for a, b in zip(own, (mean, std), strict=True)):
            return f"the transform normalises by {_described(*own)}", True
        return (f"the transform normalises {len(given)} times", True) if len(given) > 1 else ("", False)
    low, high = images.min().item(), images.max().item()
    if high > 20:
        return "values go up to 255 where 2.6 is usual", True
    if low >= 0 and high <= 1 and min(mean) > 0.1:
        return "values lie between 0 and 1, as they come from ToTensor", True
    if min(std) < 0.4 and -1.001 < low < -0.95 and 0.95 < high < 1.001:
        # A set of images with little contrast could look like that.
        return "values fill -1 to 1, as after normalising by mean 0.5 and deviation 0.5", False
    colours = images * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    outside = ((colours < -0.1) | (colours > 1.1)).float().mean().item()
    if outside > 0.01 and not part.random_transforms:  # noise and erased patches may leave the range
        return f"{outside:.0%} of the values are no colours", True
    return "", False


def _described(mean: object, std: object) -> str:
    texts = [", ".join(f"{value:.3g}" for value in torch.as_tensor(values).tolist()) for values in (mean, std)]
    return f"mean ({texts[0]}) and deviation ({texts[1]})"
