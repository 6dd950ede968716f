"""From an image to a tensor, as the backbone was trained: size, mean and deviation belong to the weights.

Images prepared in another way give worse features, and no error says so. `get_preprocessing` therefore reads these
numbers from the weights; `Preprocessing` turns them into transforms.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torchvision.models import WeightsEnum
from torchvision.transforms import v2

# Of red, green and blue, between 0 and 1, over the training set of ImageNet.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")


@dataclass(frozen=True)
class Preprocessing:
    """How a backbone expects its images.

    The short side is resized to `resize` pixels, then the central `size` x `size` pixels are cropped. With `squash`,
    both sides become `resize` and the aspect ratio is lost, as in the training of some of timm's models. `mean` and
    `std` have one value for each of red, green and blue, between 0 and 1.

    Raises:
        ValueError: a crop larger than the resized image, an unknown interpolation, not three channels.
    """

    size: int
    resize: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    squash: bool = False

    def __post_init__(self):
        for name in ("mean", "std"):  # weights give lists, which do not hash
            values = tuple(float(value) for value in getattr(self, name))
            if len(values) != 3:
                raise ValueError(f"{name} has {len(values)} values {values}; images are RGB: give 3.")
            object.__setattr__(self, name, values)
        if not 0 < self.size <= self.resize:
            raise ValueError(f"size {self.size} must be at least 1 and at most resize, which is {self.resize}.")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation {self.interpolation!r}: choose one of {', '.join(INTERPOLATIONS)}.")

    def evaluation(self) -> v2.Compose:
        """Return the transform for measuring: a PIL image gives a float tensor `(3, size, size)`, always the same."""
        side = [self.resize, self.resize] if self.squash else self.resize
        resize = v2.Resize(side, v2.InterpolationMode(self.interpolation))
        return v2.Compose([resize, v2.CenterCrop(self.size), *self._to_tensor()])

    def training(
        self, *, scale: tuple[float, float] = (0.6, 1.0), flip: bool = True, rotation: float = 0, colour: float = 0.0
    ) -> v2.Compose:
        """Return the transform for training: a PIL image gives a float tensor `(3, size, size)`, a new one each time.

        `scale` is the range of the area's share that a random crop keeps, `rotation` the largest angle in degrees,
        `colour` the largest relative change of brightness, contrast and saturation. Set `flip=False` where a mirror
        image has another label, as with letters.
        """
        mode = v2.InterpolationMode(self.interpolation)
        steps: list[nn.Module] = [v2.RandomResizedCrop(self.size, scale=scale, interpolation=mode)]
        if flip:
            steps.append(v2.RandomHorizontalFlip())
        if rotation:
            # Empty corners get the mean colour, which is 0 after normalising.
            fill = [round(255 * value) for value in self.mean]
            steps.append(v2.RandomRotation(rotation, v2.InterpolationMode.BILINEAR, fill=fill))
        if colour:
            steps.append(v2.ColorJitter(brightness=colour, contrast=colour, saturation=colour))
        return v2.Compose([*steps, *self._to_tensor()])

    def undo(self, images: torch.Tensor) -> torch.Tensor:
        """Turn normalised images `(3, H, W)` or `(N, 3, H, W)` back into values between 0 and 1, for plots."""
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return (images.detach().cpu().float() * std + mean).clamp(0, 1)

    def _to_tensor(self) -> list[nn.Module]:
        return [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(self.mean, self.std)]


def get_preprocessing(source: Any) -> Preprocessing:
    """Read the preprocessing that belongs to a model or its weights.

    `source` is a `Preprocessing`, an entry of torchvision's weights (`ResNet50_Weights.IMAGENET1K_V2`), a model with
    an attribute `preprocessing`, a timm model, or a timm model's `pretrained_cfg`.

    Raises:
        ValueError: `source` does not say how its images were prepared, or says something that is not supported.
    """
    if isinstance(source, Preprocessing):
        return source
    if isinstance(source, WRAPPERS):
        return get_preprocessing(source.module)
    if isinstance(source, WeightsEnum):
        return _from_torchvision(source)
    own = getattr(source, "preprocessing", None)
    if own is not None and not callable(own):
        return get_preprocessing(own)
    config = getattr(source, "pretrained_cfg", source)
    config = config.to_dict() if hasattr(config, "to_dict") else config  # timm's PretrainedCfg
    if isinstance(config, dict) and "input_size" in config:
        return _from_timm(
            config | {"input_size": _built_for(source, config)} if isinstance(source, nn.Module) else config
        )
    what = type(source).__name__ if isinstance(source, nn.Module) else repr(source)
    raise ValueError(
        f"{what} does not say how its images are prepared. Give a Preprocessing(size, resize), an entry of "
        "torchvision's weights, a timm model, or a model with a .preprocessing attribute."
    )


def _from_torchvision(weights: WeightsEnum) -> Preprocessing:
    preset = weights.transforms()
    try:
        crop, resize = _square(preset.crop_size), _square(preset.resize_size)
        return Preprocessing(crop, resize, preset.mean, preset.std, preset.interpolation.value)
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{weights} are not weights of an image classifier: {preset}") from error


def _from_timm(config: dict) -> Preprocessing:
    from timm.data import resolve_data_config  # takes a second to import, and only timm's models need it

    resolved = resolve_data_config(pretrained_cfg=config)
    mode, (channels, *sides) = resolved["crop_mode"], resolved["input_size"]
    if mode not in ("center", "squash"):
        raise ValueError(
            f"timm's crop mode {mode!r} is not supported (center and squash are); give a Preprocessing(size, resize)."
        )
    if channels != 3:
        raise ValueError(f"The model takes {channels} channels; images are read as RGB. Create it with in_chans=3.")
    size = _square(sides)
    resize = max(size, math.floor(size / resolved["crop_pct"]))  # a share above 1 would add a black border
    options = {name: resolved[name] for name in ("mean", "std", "interpolation")}
    return Preprocessing(size, resize, **options, squash=mode == "squash")


def _built_for(model: nn.Module, config: dict) -> tuple[int, ...]:
    """Return channels, height and width that a timm model was built for, which may not be those of its weights."""
    first = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), 3)
    folded = first % 3 == 0 or first >= 16  # some stems fold blocks of pixels into channels first
    channels = config["input_size"][0] if folded else first
    sides = getattr(getattr(model, "patch_embed", None), "img_size", None)
    return channels, *(sides or config["input_size"][1:])


def _square(sides: Iterable[int]) -> int:
    size, *others = sides
    if any(other != size for other in others):
        raise ValueError(f"The size {[size, *others]} is not square; give a Preprocessing(size, resize) with one size.")
    return int(size)
