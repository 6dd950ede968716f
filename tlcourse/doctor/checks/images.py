"""Checks of what the model is shown: sizes, colours, and whether validation and test images stay the same."""

from collections.abc import Iterator

import torch

from tlcourse.doctor.parts import Part
from tlcourse.doctor.report import Finding, listed, note, suspicious, wrong
from tlcourse.doctor.setup import Setup

SURPRISE = 1.4  # a median factor of four in variance at the first batch norm; images differ by less, units by more
DRAWS = 6  # times that the same image is drawn
CONVENTIONS = {
    "ImageNet's mean and deviation": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mean 0.5 and deviation 0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "CLIP's mean and deviation": ((0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)),
    "no normalisation": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
COARSE_STEP = 0.02  # means and deviations that differ by less are the same, rounded


def items_can_be_read(setup: Setup) -> Iterator[Finding]:
    """Every item that is looked at can be had, and makes a batch with the others."""
    for part in setup.parts:
        _ = part.sample  # reading fills in the faults
        if part.faults:
            yield wrong(
                "unreadable",
                f"Items of the {part.name} part cannot be read.",
                f"{len(part.faults)} faults in a few items looked at; {listed(part.faults, 2)}",
                "Delete or replace the files, or repair the transform; `tlcourse doctor FOLDER` lists damaged files.",
            )


def images_are_floats(setup: Setup) -> Iterator[Finding]:
    """A network works on floating-point images."""
    for part in setup.parts:
        if part.sample is not None and not part.sample[0].is_floating_point():
            yield suspicious(
                "not-normalised",
                f"The {part.name} part gives whole numbers.",
                f"{part.sample[0].dtype}, {part.sample[0].min()} to {part.sample[0].max()}",
                "End the transform with ToDtype(torch.float32, scale=True) and Normalize.",
            )


def images_are_normalised(setup: Setup) -> Iterator[Finding]:
    """A pre-trained body wants the mean and deviation that it was trained with."""
    part, wanted = setup.sample_part, setup.preprocessing
    if part is None or wanted is None or (setup.pretrained is False and not setup.norms):
        return
    images = part.sample[0]
    if not images.is_floating_point() or images.ndim != 4 or images.shape[1] != 3:
        return
    fault, sure = _wrong_colours(part, images, wanted.mean, wanted.std)
    if not fault:
        return
    mean, std = images.mean((0, 2, 3)), images.std((0, 2, 3))
    evidence = (
        f"{fault}; {len(images)} images of the {part.name} part have mean {_numbers(mean)} and deviation "
        f"{_numbers(std)}, from {images.min():.3g} to {images.max():.3g}; the model's weights want images normalised "
        f"by mean {_numbers(wanted.mean)} and deviation {_numbers(wanted.std)}"
    )
    bn_mismatch = setup.answers.bn_mismatch if setup.answers else None
    if bn_mismatch is not None and setup.pretrained is not None and _untouched(setup):
        finding, tail = note, " It matters for pre-trained weights; these look random."
    elif bn_mismatch is not None:
        finding, tail = (wrong, "") if sure and bn_mismatch > SURPRISE else (suspicious, "")
        evidence += f"; the first batch norm sees values a factor of {2.718**bn_mismatch:.1f} from what it remembers"
    else:
        finding, tail = (
            (wrong if sure else suspicious, "") if setup.pretrained else (note, " It matters for pre-trained weights.")
        )
    yield finding(
        "not-normalised",
        "The images are not normalised as the weights were trained." + tail,
        evidence,
        "Take the transform from the model: `tl.data.load(..., model=model)`, `data.for_model(model)`, or "
        "`tl.preprocessing.get_preprocessing(model).evaluation()`.",
    )


def images_have_the_size(setup: Setup) -> Iterator[Finding]:
    """A network that was trained at one size sees other scales at another."""
    if setup.sample_part is None or setup.preprocessing is None or not setup.pretrained:
        return
    images, size = setup.sample_part.sample[0], setup.preprocessing.size
    if images.ndim != 4 or images.shape[-1] == size == images.shape[-2]:
        return
    height, width = images.shape[-2:]
    factor = max(size / min(height, width), max(height, width) / size)
    finding = suspicious if factor >= 2 else note
    yield finding(
        "input-size",
        "The images have another size than the weights were trained at.",
        f"{height} x {width} instead of {size} x {size} pixels",
        f"Resize to {size} for the features that were learnt; somewhat larger is slower and often a little better.",
    )


def measured_images_hold_still(setup: Setup) -> Iterator[Finding]:
    """Validation and test images are the same each time: no augmentation."""
    for part in setup.parts:
        if not part.evaluated or not len(part):
            continue
        changing = [index for index in part.spread(4) if _changes(part, index)]
        names = part.random_transforms
        if changing:
            through = f"; its transform has {listed(names)}" if names else ""
            yield wrong(
                "augmented-evaluation",
                f"The {part.name} part is augmented: what is measured changes from time to time.",
                f"item {changing[0]} was drawn {DRAWS} times and came out differently{through}",
                "Give it the evaluation transform. After `random_split` both parts share one transform: make two data "
                "sets over the same files, and take the indices of one split from each.",
            )
        elif names:
            yield suspicious(
                "augmented-evaluation",
                f"The {part.name} part has random transforms, which changed nothing so far.",
                f"{listed(names)}; {DRAWS} draws of {len(part.spread(4))} items were the same",
                "Take them out of the evaluation transform.",
            )


def _changes(part: Part, index: int) -> bool:
    try:
        first = _image(part.item(index))
        return first is not None and any(
            (other := _image(part.item(index))).shape != first.shape or not torch.equal(other, first)
            for _ in range(DRAWS - 1)
        )
    except Exception:  # `items_can_be_read` tells it
        return False


def _image(item: object) -> torch.Tensor | None:
    image = item[0] if isinstance(item, tuple | list) else item
    return image if isinstance(image, torch.Tensor) else None


def _wrong_colours(part: Part, images: torch.Tensor, mean: tuple, std: tuple) -> tuple[str, bool]:
    """Say in which way images are not normalised by `mean` and `std`, or "", and whether that is sure."""
    given = [(step.mean, step.std) for step in part.transforms if hasattr(step, "mean") and hasattr(step, "std")]
    if given and given[-1][0] is not None:
        own_mean, own_std = (torch.as_tensor(values, dtype=torch.float).flatten() for values in given[-1])
        far = max((own_mean - torch.tensor(mean)).abs().max(), (own_std - torch.tensor(std)).abs().max())
        if far > COARSE_STEP:
            return f"the transform normalises by mean {_numbers(own_mean)} and deviation {_numbers(own_std)}", True
        if len(given) > 1:
            return f"the transform normalises {len(given)} times", True
        return "", False
    low, high = images.min().item(), images.max().item()
    if high > 20:
        return "values go up to 255 where 2.6 is usual", True
    if low >= 0 and high <= 1 and min(mean) > 0.1:
        return "values lie between 0 and 1, as they come from ToTensor", True
    if min(std) < 0.4 and -1.001 < low < -0.95 and 0.95 < high < 1.001:
        # A set of images with little contrast could look like that.
        return "values fill -1 to 1, as after normalising by mean 0.5 and deviation 0.5", False
    colours = _undone(images, mean, std)
    outside = ((colours < -0.1) | (colours > 1.1)).float().mean().item()
    if outside > 0.01 and not part.random_transforms:  # noise and erased patches may leave the range
        fits = [
            name
            for name, (m, s) in CONVENTIONS.items()
            if (c := _undone(images, m, s)).min() > -0.05 and c.max() < 1.05
        ]
        return f"{outside:.0%} of the values are no colours" + (f"; {fits[0]} would fit" if fits else ""), True
    return "", False


def _undone(images: torch.Tensor, mean: tuple, std: tuple) -> torch.Tensor:
    return images * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)


def _untouched(setup: Setup) -> bool:
    """Whether the first batch norm remembers nothing: zeros and ones, as it was made."""
    first = setup.norms[0].module
    return not bool(first.running_mean.any()) and bool((first.running_var == 1).all())


def _numbers(values: object) -> str:
    return "(" + ", ".join(f"{value:.3g}" for value in torch.as_tensor(values).flatten().tolist()) + ")"


CHECKS = (
    items_can_be_read,
    images_are_floats,
    images_are_normalised,
    images_have_the_size,
    measured_images_hold_still,
)
