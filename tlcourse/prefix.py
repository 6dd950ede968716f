"""Frozen work is done once: what the frozen part makes of each image is kept on disk, and the rest trains on that."""

import hashlib
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler
from tqdm.auto import tqdm

from tlcourse._cut import Cut, split_frozen
from tlcourse._rows import computed_once
from tlcourse.data import ImageSet, Splits
from tlcourse.data._splits import Loaders
from tlcourse.evaluate import autocast, evaluation_mode
from tlcourse.runtime import current

__all__ = ["Activations", "Cut", "Precomputed", "precompute", "split_frozen"]

FORMAT = 1  # a part of the key: raise it when files of before must not be read
STEP = 32  # images or views that the frozen part computes at a time


@dataclass(frozen=True)
class Activations(Dataset):
    """What the frozen part made of a set of images.

    `rows` is float16, or float32 where float16 overflows, `(N * views, ...)`: row `views * i + v` is view `v` of image
    `i`. Maps that are `channels_last` are stored as `(N * views, H, W, C)`. `labels` are `(N,)`.
    """

    rows: np.ndarray
    labels: Tensor
    views: int
    channels_last: bool

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        x, labels = self.__getitems__([row])
        return x[0], labels[0]

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        """Return a whole batch, float32; maps are `(B, C, H, W)` however they are stored."""
        x = torch.from_numpy(self.rows[rows]).float()
        labels = self.labels[torch.tensor(rows) // self.views]
        return (x.permute(0, 3, 1, 2) if self.channels_last else x), labels


class ViewSampler(Sampler[int]):
    """Draws an order of the images, and for each image one of its views.

    The order is that of PyTorch's `RandomSampler`. The views come from a fork of the generator, which itself goes on
    as if there were none: orders are those of the images' own loader, and the generator's state before an epoch
    decides all of the epoch.
    """

    def __init__(self, images: int, views: int, generator: torch.Generator):
        # Inside, not above: tools that replace a `RandomSampler` by their own would draw rows, which are not images.
        self.order, self.views, self.generator = RandomSampler(range(images), generator=generator), views, generator

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[int]:
        fork = torch.Generator()
        fork.set_state(self.generator.get_state())
        fork.manual_seed(int(torch.randint(2**31, (), generator=fork)))
        views = torch.randint(self.views, (len(self),), generator=fork).tolist()
        for image in self.order:
            yield image * self.views + views[image]


@dataclass(frozen=True)
class Precomputed:
    """The part of a network that is left to train, and what it is given, computed beforehand."""

    rest: fx.GraphModule
    train: Activations
    val: Activations
    test: Activations

    def loaders(self, batch_size: int = 32, *, seed: int = 0) -> Loaders:
        """Return a loader for each part; batches are `(activations (B, ...) float32, labels (B,))`.

        They are what `splits.loaders(batch_size, seed=seed)` would give: the same images in the same order, val and
        test two batches' worth at a time, and no last training batch of one image. Of several views, each image's is
        drawn anew for each epoch. The state of `train.generator` before an epoch decides order and views.
        """
        images, generator = len(self.train.labels), torch.Generator().manual_seed(seed)
        common = {"collate_fn": _as_it_is, "pin_memory": current().device.type == "cuda"}
        sampler = ViewSampler(images, self.train.views, generator)
        lonely = images > batch_size and images % batch_size == 1
        return Loaders(
            DataLoader(self.train, batch_size, sampler=sampler, drop_last=lonely, generator=generator, **common),
            *(
                DataLoader(part, 2 * batch_size, generator=torch.Generator().manual_seed(seed), **common)
                for part in (self.val, self.test)
            ),
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

        cached = tl.prefix.precompute(model, splits, views=4)
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
        seed: of the augmentation, if it draws from PyTorch's random numbers.
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
    _check_transforms(seen)
    device = next(model.parameters()).device
    prefix, rest = split_frozen(model, torch.cat([seen[0][i] for i in (0, -1)])[:2].to(device))
    folder = None if cache is False else current().cache / "prefix" if cache is True else Path(cache)
    with evaluation_mode(prefix), torch.no_grad(), autocast(device, precision):
        parts = [_activations(prefix, part, device, precision, folder) for part in seen]
    return Precomputed(rest, *parts)


class _Seen(Dataset):
    """Item `i` holds the views of image `i`, `(views, 3, H, W)`: the same ones each time, in any process and order."""

    def __init__(self, images: ImageSet, views: int, seed: int):
        self.images, self.views, self.seed = images, views, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        i = range(len(self))[i]
        if self.views == 1:
            return self.images[i][0][None]
        picture = self.images.raw(i)  # decoded once for all its views
        with torch.random.fork_rng(devices=[]):
            return torch.stack([self._view(picture, i, v) for v in range(self.views)])

    def _view(self, picture, i: int, view: int) -> Tensor:
        torch.manual_seed(zlib.crc32(f"{self.seed} {i} {view}".encode()))
        return self.images.transform(picture)

    @property
    def fingerprint(self) -> str:
        return f"{self.images.fingerprint} {self.views} {self.seed if self.views > 1 else ''}"


def _check_transforms(seen: list[_Seen]) -> None:
    for part in seen:
        if not len(part):
            raise ValueError("A part of the splits is empty: there is nothing to compute.")
        some = range(min(3, len(part)))  # one reading may be lucky, three are not
        if part.views > 1:
            if all(torch.equal(part[i][0], part[i][1]) for i in some):
                raise ValueError(
                    f"views={part.views}, and all views of an image are the same, because nothing augments it. "
                    "Give the splits an augmentation, or take views=1."
                )
        elif not all(torch.equal(part[i], part[i]) for i in some):
            raise ValueError(
                "Reading the same image twice gives two results, so its transform is random, and one draw would be "
                "kept for good. Use a plain transform, or views=2 or more for the training part."
            )


def _activations(prefix: nn.Module, seen: _Seen, device: torch.device, precision: str, folder: Path | None):
    """Read what the frozen part makes of some images, or compute and store it."""

    def run(images: Tensor) -> Tensor:
        # Convolutions are faster on channels-last maps, and what they give is channels-last too.
        return prefix(images.to(device, memory_format=torch.channels_last)).float().cpu()

    example = run(seen[0])
    channels_last = example.ndim == 4 and example.is_contiguous(memory_format=torch.channels_last)

    def stored(x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1) if channels_last else x

    def compute() -> Iterator[Tensor]:
        # A generator of its own: else the loader draws from the global one and changes the training after it.
        options = {"num_workers": current().workers, "generator": torch.Generator().manual_seed(0)}
        for batch in tqdm(DataLoader(seen, max(1, STEP // seen.views), **options), desc="frozen part", leave=False):
            yield stored(run(batch.flatten(0, 1)))

    shape = (len(seen) * seen.views, *stored(example).shape[1:])
    file = None
    if folder is not None:
        file = folder / f"{_digest(prefix, f'{FORMAT} {precision} {channels_last} {shape} {seen.fingerprint}')}.npy"
    return Activations(computed_once(file, shape, compute), seen.images.labels, seen.views, channels_last)


def _digest(prefix: nn.Module, seen: str) -> str:
    """Return a key made of the frozen part, its code and its tensors, and of what it sees."""
    code = re.sub(r" at 0x[0-9a-f]+", "", str(prefix))  # an address differs from process to process
    digest = hashlib.sha256(f"{seen} {code}".encode())
    for name, tensor in prefix.state_dict().items():
        if not name.startswith(getattr(prefix, "unused", "\0")):
            value = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {value.shape} {value.dtype}".encode())
            digest.update(value.view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def _as_it_is(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return batch
