"""Frozen work is done once: what the frozen part makes of each image is kept on disk, and the rest trains on that."""

import hashlib
import inspect
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import torchvision
from torch import Tensor, fx, nn
from tqdm.auto import tqdm

from tlcourse.data import ImageSet, Loaders, Splits, make_loader
from tlcourse.evaluation import autocast, evaluation_mode
from tlcourse.features.activations import ActivationLoader, Activations, ViewSampler
from tlcourse.features.array_store import computed_once
from tlcourse.features.cut import Cut, split_frozen
from tlcourse.runtime import get_runtime
from tlcourse.side_effects import preserve_rng_state

__all__ = ["Activations", "Cut", "Precomputed", "precompute", "split_frozen"]

FORMAT = 1  # a part of the key: raise it when files of before must not be read
LIBRARIES = ("torch", "torchvision", "timm", "builtins")  # whose code is known by its version
STEP = 32  # images that the frozen part computes at a time


@dataclass(frozen=True)
class Precomputed:
    """The part of a network that is left to train, and what it is given, computed beforehand."""

    rest: fx.GraphModule
    train: Activations
    val: Activations
    test: Activations

    def loaders(self, batch_size: int = 32, *, seed: int = 0) -> Loaders:
        """Return a loader for each part; batches are `(activations (B, ...) float32, labels (B,))`.

        They are what `splits.plain().loaders(batch_size, seed=seed)` would give: the same images in the same order,
        val and test two batches' worth at a time, and no last training batch of one image. Of several views, each
        image's is drawn anew for each epoch. The state of `train.generator` before an epoch decides order and views.
        """
        images, generator = len(self.train.labels), torch.Generator().manual_seed(seed)
        sampler = ViewSampler(images, self.train.views, generator)
        options = {"sampler": sampler, "drop_last": images > batch_size and images % batch_size == 1}
        pinned = next(self.rest.parameters()).device.type == "cuda"
        return Loaders(
            ActivationLoader(self.train, batch_size, generator=generator, pin_memory=pinned, **options),
            ActivationLoader(self.val, 2 * batch_size, pin_memory=pinned),
            ActivationLoader(self.test, 2 * batch_size, pin_memory=pinned),
        )


def precompute(
    model: nn.Module,
    splits: Splits,
    *,
    views: int = 1,
    seed: int = 0,
    precision: str = "float32",
    cache: bool | Path = True,
) -> Precomputed:
    """Run the frozen part of a model over all images once; train the rest on what it gave.

        cached = tl.features.precompute(model, splits, views=4)
        optimizer = torch.optim.AdamW(tl.models.param_groups(cached.rest, lr=1e-3))
        history = tl.train.fit(cached.rest, cached.loaders(32), optimizer, epochs=10)

    `rest` shares its modules and parameters with the model, which is therefore trained too. The activations are kept
    as float16, each rounded by at most 0.05 %, in the cache folder under a key made of the frozen weights, the images
    and their transform. A file that is damaged is computed anew.

    Args:
        model: frozen from the input up, as `tl.models.freeze` and `tl.models.unfreeze_from` leave it.
        splits: prepared for this model.
        views: with 1 the training images are taken without augmentation. With more, so many augmented versions of
            each are computed and kept, and each epoch draws one of them for each image.
        seed: of the augmentation.
        precision: in which the frozen part computes, `"float32"`, or `"bfloat16"`, with an error of 0.3 to 2 % where it
            was measured (ResNet-18, SqueezeNet).
        cache: `False` keeps the activations in memory alone; a path is the folder to use.

    Raises:
        ValueError: no part of the model can be computed beforehand (see `split_frozen`), `views` is not positive, or
            there is no augmentation that would make views differ.
        OSError: the disk has too little room; the message says how much is needed.
        FloatingPointError: an activation is infinite or not a number.
    """
    if views < 1:
        raise ValueError(f"views is {views}: give 1 (no augmentation) or more.")
    if views == 1 and splits.augmentation is not None:
        splits = splits.plain()
    seen = [_Seen(splits.train, views, seed), _Seen(splits.val, 1, 0), _Seen(splits.test, 1, 0)]
    device = next(model.parameters()).device
    folder = None if cache is False else get_runtime().cache / "prefix" if cache is True else Path(cache)
    with preserve_rng_state():
        for part in seen:
            part.check()
        prefix, rest = split_frozen(model, torch.stack([splits.val[i][0] for i in (0, -1)]).to(device))
        with evaluation_mode(prefix), torch.no_grad():
            parts = [_activations(prefix, part, device, precision, folder) for part in seen]
    return Precomputed(rest, *parts)


@dataclass(frozen=True)
class _Seen:
    """The images of one part, as often as there are views of them."""

    images: ImageSet
    views: int
    seed: int

    def __len__(self) -> int:
        return self.views * len(self.images)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield batches of all images in order, first in one view, then in the next one."""
        for view in range(self.views):
            torch.manual_seed(self.seed + view)  # from which a transform of one's own may draw
            chance = torch.Generator().manual_seed(self.seed + view)
            yield from (images for images, _ in make_loader(self.images, STEP, generator=chance))

    @property
    def fingerprint(self) -> str:
        return f"{self.images.fingerprint} {self.views} {self.seed if self.views > 1 else ''}"

    def check(self) -> None:
        """Refuse a transform that is random and should not be, or the other way round."""
        some = range(min(3, len(self.images)))  # one reading may be lucky, three are not
        same = all(torch.equal(self.images[i][0], self.images[i][0]) for i in some)
        if not len(some):
            raise ValueError("A part of the splits is empty: there is nothing to compute.")
        if same and self.views > 1:
            raise ValueError(
                f"views={self.views}, and all views of an image are the same, because nothing augments it. "
                "Give the splits an augmentation, or take views=1."
            )
        if not same and self.views == 1:
            raise ValueError(
                "Reading the same image twice gives two results, so its transform is random, and one draw would be "
                "kept for good. Use a plain transform, or views=2 or more for the training part."
            )


def _activations(
    prefix: nn.Module, seen: _Seen, device: torch.device, precision: str, folder: Path | None
) -> Activations:
    """Read what the frozen part makes of some images, or compute and store it."""

    def run(images: Tensor) -> Tensor:
        # Convolutions are faster on channels-last maps, and what they give is channels-last too.
        with autocast(device, precision):
            return prefix(images.to(device, memory_format=torch.channels_last)).float().cpu()

    example = run(seen.images[0][0][None])
    channels_last = example.ndim == 4 and example.is_contiguous(memory_format=torch.channels_last)

    def stored(x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1) if channels_last else x

    def compute() -> Iterator[Tensor]:
        steps = seen.views * math.ceil(len(seen.images) / STEP)
        yield from (stored(run(images)) for images in tqdm(seen, desc="frozen part", total=steps, leave=False))

    shape = (len(seen), *stored(example).shape[1:])
    file = None
    if folder is not None:
        file = folder / f"{_digest(prefix, f'{FORMAT} {precision} {channels_last} {shape} {seen.fingerprint}')}.npy"
    return Activations(computed_once(file, shape, compute), seen.images.labels, channels_last)


def _digest(prefix: nn.Module, seen: str) -> str:
    """Return a key made of the frozen part, its code and its tensors, and of what it sees."""
    described = re.sub(r" at 0x[0-9a-f]+", "", str(prefix))  # an address differs from process to process
    digest = hashlib.sha256(f"{seen} {described} {timm.__version__} {torchvision.__version__}".encode())
    digest.update(_own_code(prefix).encode())
    for name, tensor in prefix.state_dict().items():
        if not name.startswith(getattr(prefix, "unused", "\0")):
            value = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {value.shape} {value.dtype}".encode())
            digest.update(value.view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def _own_code(prefix: nn.Module) -> str:
    """Return the source of modules that come from no library: in a notebook it changes while the weights stay."""
    kinds = {base for module in prefix.modules() for base in type(module).__mro__}
    found = []
    for kind in sorted(kinds, key=lambda kind: f"{kind.__module__}.{kind.__qualname__}"):
        if kind.__module__.partition(".")[0] not in LIBRARIES:
            for member in vars(kind).values():
                with suppress(OSError, TypeError):  # no function, or typed in without a file
                    found.append(inspect.getsource(member))
    return "".join(found)
