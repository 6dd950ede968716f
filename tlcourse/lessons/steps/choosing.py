"""The steps of the tasks of lessons 3.4, 3.5 and 3.6."""

import math
from typing import Any

import torch
from torch import nn
from torchvision.transforms.functional import to_pil_image

from tlcourse.lessons.checks import NotRightError, step


@step("3.4/multiply-adds")
def convolution_work(function: Any) -> str:
    """A function of a convolution, and of its output's height and width, that counts multiply-adds."""
    if not callable(function) or isinstance(function, nn.Module):
        raise NotRightError(f"the answer is a {type(function).__name__}. Give a function of conv, height and width.")
    for what, conv, height, width in (
        ("a kernel of 3 x 3", nn.Conv2d(8, 16, 3), 10, 20),
        ("a kernel of 1 x 1", nn.Conv2d(8, 16, 1, bias=False), 7, 7),
        ("stride 2", nn.Conv2d(3, 64, 7, stride=2, padding=3), 112, 112),
        ("groups", nn.Conv2d(32, 32, 3, padding=1, groups=32), 14, 14),
        ("a kernel of 1 x 5", nn.Conv2d(4, 6, (1, 5)), 9, 3),
    ):
        wanted = conv.weight.numel() * height * width  # each weight is used once for each position
        found = function(conv, height, width)
        if found is None or float(found) != wanted:
            shown = f"{found:,}" if isinstance(found, int | float) else repr(found)
            raise NotRightError(f"with {what}, {conv} and {height} x {width} give {shown}, not {wanted:,}.")
    return "groups of one channel divide the work by the number of channels; that's how small networks stay small."


@step("3.4/choose")
def choose(function: Any) -> str:
    """A function of a table and two limits: the name of the most accurate network within both, or None."""
    if not callable(function):
        raise NotRightError(f"the answer is a {type(function).__name__}. Give a function of a table and two limits.")
    columns = ("parameters", "multiply-adds", "accuracy")
    rows = {"c": (30e6, 0.3, 80.0), "a": (5e6, 0.2, 70.0), "d": (6e6, 9.0, 82.0), "b": (4e6, 0.4, 75.0)}
    table = {name: dict(zip(columns, row, strict=True)) for name, row in rows.items()}
    for limits, wanted, why in (
        ((10e6, 1.0), "b", "it is the most accurate within both limits"),
        ((4e6, 0.4), "b", "exactly at a limit is within it"),
        ((50e6, 1.0), "c", "few multiply-adds are allowed, and many parameters"),
        ((10e6, 10.0), "d", "many multiply-adds are allowed, and few parameters"),
        ((1e6, 0.1), None, "nothing is within these limits"),
    ):
        found = function({name: dict(row) for name, row in table.items()}, *limits)
        if found != wanted:
            raise NotRightError(
                f"with at most {limits[0]:,.0f} parameters and {limits[1]} G it gives {found!r}, not {wanted!r}: {why}."
            )
    return "limits come first, accuracy second. Then measure the candidates on your machine and your images."


@step("3.5/features")
def features(function: Any) -> str:
    """A function of a name: a network of timm, without weights, that gives a row of features for each image."""
    if not callable(function) or isinstance(function, nn.Module):
        raise NotRightError(f"the answer is a {type(function).__name__}. Give a function of a name.")
    for name, size, width in (("tl_resnet", 64, 256), ("resnet10t", 64, 512), ("vit_tiny_patch16_224", 224, 192)):
        network = function(name)
        if not isinstance(network, nn.Module):
            raise NotRightError(f"for {name} it returns a {type(network).__name__}. Return the network.")
        images = torch.rand(2, 3, size, size)
        with torch.no_grad():
            found = network.eval()(images)
        if not isinstance(found, torch.Tensor):
            raise NotRightError(f"{name} gives a {type(found).__name__}, not one tensor.")
        if found.ndim != 2:
            raise NotRightError(f"{name} gives {tuple(found.shape)} for two images: positions are left.")
        if found.shape[1] != width:
            raise NotRightError(f"{name} gives {found.shape[1]} numbers for an image. Its features are {width}.")
        if hasattr(network, "forward_head"):
            with torch.no_grad():
                own = network.forward_head(network.forward_features(images), pre_logits=True)
            if not torch.allclose(found, own, atol=1e-4):
                raise NotRightError(f"{name} still has a head, with random weights. Take it away.")
    return "the same line works for every network of timm, so you can exchange the backbone in one place."


@step("3.5/transform")
def transform(function: Any) -> str:
    """A function of a name: the transform at evaluation that the default weights of this network want."""
    import timm

    if not callable(function) or isinstance(function, nn.Module):
        raise NotRightError(f"the answer is a {type(function).__name__}. Give a function of a name.")
    image = torch.rand(3, 13, 17, generator=torch.Generator().manual_seed(0))
    image = to_pil_image(image).resize((340, 260))  # blobs of colour
    for name in ("vit_tiny_patch16_224", "resnet10t", "tl_resnet", "resnet18"):
        config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
        wanted = timm.data.create_transform(**config)(image)
        made = function(name)
        if not callable(made):
            raise NotRightError(f"for {name} it returns a {type(made).__name__}. Return the transform.")
        found = made(image)
        if not isinstance(found, torch.Tensor):
            raise NotRightError(f"for {name} the transform gives a {type(found).__name__}, not a tensor.")
        if found.shape != wanted.shape:
            shapes = f"{tuple(found.shape)}, and its weights want {tuple(wanted.shape)}"
            raise NotRightError(
                f"for {name} an image becomes {shapes}. The configuration holds the size: leave out `use_test_size`."
            )
        if not torch.equal(found, made(image)):
            raise NotRightError(f"for {name} the same image gives two results: this is a transform for training.")
        if not torch.allclose(found, wanted, atol=0.02):
            seen = f"for {name} the result has a mean of {found.mean():.2f} and a deviation of {found.std():.2f}, "
            seen += f"not {wanted.mean():.2f} and {wanted.std():.2f}, and values differ by up to "
            seen += f"{(found - wanted).abs().max():.2f}"
            wants = {key: config[key] for key in ("mean", "std", "crop_pct", "interpolation")}
            raise NotRightError(f"{seen}. Its weights want {wants}.")
    return "the transform comes with the weights, so another network needs no other line of your code."


@step("3.6/surest")
def surest(function: Any) -> str:
    """A function that gives the accuracy on the share of images with the highest confidence."""
    if not callable(function):
        raise NotRightError(f"the answer is a {type(function).__name__}. Give a function.")
    for images, share in ((200, 1.0), (200, 0.8), (60, 0.5), (150, 0.1)):
        generator = torch.Generator().manual_seed(images)
        probabilities = (3 * torch.randn(images, 5, generator=generator)).softmax(1)
        confidence, predicted = probabilities.max(1)
        wrong = torch.rand(images, generator=generator) > confidence
        labels, order = (predicted + wrong) % 5, confidence.argsort(descending=True)
        n = round(share * images)
        wanted, reverse = ((~wrong)[rows].float().mean().item() for rows in (order[:n], order[-n:]))
        found = function(probabilities.clone(), labels.clone(), share)
        if not isinstance(found, int | float) and getattr(found, "shape", None) != ():
            raise NotRightError(f"it returns {type(found).__name__}. Return one number.")
        if not math.isclose(float(found), wanted, abs_tol=1e-4):
            if math.isclose(float(found), reverse, abs_tol=1e-4):
                raise NotRightError("these are the images with the lowest confidence. Sort the other way.")
            raise NotRightError(f"for a share of {share:g} it gives {float(found):.3f}; {wanted:.3f} is asked for.")
    return "with it you can say how many images a person has to look at for the accuracy that you need."


@step("3.6/limit")
def limit(function: Any) -> str:
    """A function that gives the lowest limit at which the answered images reach an accuracy; above one if none does."""
    if not callable(function):
        raise NotRightError(f"the answer is a {type(function).__name__}. Give a function.")
    for images, wanted, digits in (
        (200, 0.903, 7), (80, 0.971, 7), (120, 0.0, 7), (300, 0.857, 7), (40, 1.01, 7), (200, 0.903, 1)
    ):  # fmt: skip
        generator = torch.Generator().manual_seed(images)
        probabilities = (2 * torch.randn(images, 3, generator=generator)).softmax(1)
        probabilities = probabilities.round(decimals=digits)  # with ties, as a confident network gives them
        confidence, predicted = probabilities.max(1)
        right = torch.rand(images, generator=generator) < confidence
        labels = torch.where(right, predicted, (predicted + 1) % 3)
        answers = [confidence >= limit for limit in confidence]
        most = max((int(a.sum()) for a in answers if right[a].float().mean() >= wanted), default=0)
        found = function(probabilities.clone(), labels.clone(), wanted)
        if not isinstance(found, int | float) and getattr(found, "shape", None) != ():
            raise NotRightError(f"it returns {type(found).__name__}. Return one number.")
        if wanted > 1 and float(found) <= 1:
            raise NotRightError(f"nothing reaches {wanted:g}, and it gives {float(found):.3f}. Return more than 1.")
        answered = confidence >= float(found)
        seen = f"with {wanted:g} wanted, the limit {float(found):.3f} answers {int(answered.sum())} of {images} images"
        if answered.any() and (accuracy := right[answered].float().mean().item()) < wanted:
            raise NotRightError(f"{seen}, and {accuracy:.3f} of them are right: too few.")
        if answered.sum() < most:
            raise NotRightError(f"{seen}. A lower limit reaches the accuracy too, and answers {most}.")
    return "choose it on images that were set aside: on the images that chose it, the accuracy looks better than it is."
