"""Write docs/errata.md: what the source chapter gets wrong, each with lines that show it.

    python tools/errata.py            run every line and write the page
    python tools/errata.py --check    say whether the page is what the lines give

What a line prints stands beside it on the page, so the page is true as long as it can be made anew.
"""

import argparse
import contextlib
import io
import pickle
import sys
import time
import traceback
import warnings
from pathlib import Path
from textwrap import dedent

PAGE = Path(__file__).resolve().parents[1] / "docs" / "errata.md"

# where, what the chapter says, what is true, and lines that show it
ERRATA = [
    (
        "3.1, ImageNet",
        "about 1.4 million images",
        "The set that pre-trained models come from, ILSVRC 2012, has 1,281,167 training images in 1,000 classes; with "
        "50,000 validation and 100,000 test images it is 1.43 million ([source](https://arxiv.org/abs/1409.0575)).",
        "print(f'{1_281_167 + 50_000 + 100_000:,}')",
    ),
    (
        "3.1, two approaches",
        "hundreds to thousands of images: feature extraction; thousands to tens of thousands: fine-tuning",
        "The number of images does not decide it alone: in these runs fine-tuning leads with a hundred.",
        """
        runs = tl.experiments.stored("fine_tuning").only(data="toypets")
        print("fine-tuned minus frozen, 100 images:", runs.difference("fine-tuned", "frozen"))
        """,
    ),
    (
        "example 1",
        "ResNet-50 with two classes has 25,557,032 parameters, 25,552,934 of them frozen",
        "That is the count with the old head, which is gone.",
        """
        model = tl.models.freeze(tl.models.create("resnet50", 2, weights=None))
        total = tl.models.count(model.parameters())
        print(f"{total:,} parameters, {total - tl.models.count(model.fc.parameters()):,} frozen")
        """,
    ),
    (
        "example 1",
        "50 convolutional layers",
        "The name counts those on the main path and the last linear layer, not the four in shortcuts.",
        """
        model = torchvision.models.resnet50(weights=None)
        names = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
        print(len(names), "convolutions,", sum("downsample" in n for n in names), "in shortcuts")
        """,
    ),
    (
        "example 1",
        "a backbone without gradients is frozen (batch norm is not mentioned)",
        "In training mode, the running statistics of every batch norm still change.",
        """
        model = tl.models.freeze(tl.models.create("tl_resnet", 2)).train()
        before = model.bn1.running_mean.clone()
        with torch.no_grad():
            model(torch.randn(8, 3, 64, 64))
        print("statistics unchanged:", model.bn1.running_mean.equal(before))
        """,
    ),
    (
        "example 2",
        "one `ImageFolder` with the training transform, split by `random_split`",
        "The validation images are augmented, too.",
        """
        images = tl.data.load("toypets").train
        _, val = torch.utils.data.random_split(images, [0.8, 0.2])
        print("a validation image, read twice, is the same:", val[0][0].equal(val[0][0]))
        """,
    ),
    (
        "example 2",
        "Resize(256) for the V2 weights",
        "The weights say what they were trained for.",
        "print(torchvision.models.ResNet50_Weights.IMAGENET1K_V2.transforms().resize_size)",
    ),
    (
        "example 2",
        "the loop uses `optimizer`, `criterion` and `device` from the notebook",
        "It trains with whatever was defined last under these names. In our lessons, everything is an argument.",
        """
        def step():
            return criterion(torch.zeros(1, 2), torch.zeros(1, dtype=int)).item()
        criterion = nn.CrossEntropyLoss()
        first = step()
        criterion = lambda logits, labels: torch.tensor(0.0)
        print(f"the same call, {first:.2f} and then {step():.2f}")
        """,
    ),
    (
        "example 2",
        "the best epoch is chosen on the validation set and reported with that number",
        "The best of several noisy numbers is too high on average: here, of 20 epochs that guess on 100 images.",
        """
        epochs = torch.distributions.Binomial(100, 0.5).sample((10_000, 20)) / 100
        print(f"true accuracy 0.50, best of 20 epochs on average {epochs.amax(1).mean():.2f}")
        """,
    ),
    (
        "3.2, table",
        "feature extraction uses little memory because there are no gradients",
        "Only where everything from the input up is frozen. One trainable stem, and all activations are kept.",
        """
        def kept(model):
            sizes = []
            pack = lambda t: sizes.append(t.numel() * t.element_size()) or t
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
                model(torch.randn(8, 3, 64, 64)).sum()
            return sum(sizes) / 1e6
        model = tl.models.freeze(tl.models.create("tl_resnet", 2, weights=None))
        head_alone = kept(model)
        model.conv1.weight.requires_grad_(True)
        print(f"head alone {head_alone:.1f} MB kept, head and stem {kept(model):.0f} MB")
        """,
    ),
    (
        "example 3",
        "stage 2 trains 7,102,466 parameters, stage 3 14,172,610, all 25,557,032",
        "7,102,466 is layer3 and the head.",
        """
        model = tl.models.create("resnet50", 2, weights=None)
        for stage in ("layer4", "layer3", "stem"):
            tl.models.unfreeze_from(model, stage)
            print(stage, f"{tl.models.count(p for p in model.parameters() if p.requires_grad):,}")
        """,
    ),
    (
        "example 3",
        'prints `f"{7,102,466:,}"`',
        "The commas make a tuple, which has no such format.",
        'print(f"{7,102,466:,}")',
    ),
    (
        "example 3",
        "a new Adam for every stage",
        "What it knew about the layers that trained before is gone; `extend_optimizer` keeps it.",
        """
        model = tl.models.freeze(tl.models.create("tl_resnet", 2, weights=None))
        optimizer = torch.optim.Adam(model.fc.parameters())
        model(torch.randn(2, 3, 64, 64)).sum().backward()
        optimizer.step()
        tl.models.unfreeze_from(model, "layer4")
        new = torch.optim.Adam(p for p in model.parameters() if p.requires_grad)
        tl.models.extend_optimizer(optimizer, model, lr=1e-3)
        print("moments: a new one", len(new.state), "tensors, extended", len(optimizer.state))
        """,
    ),
    (
        "example 4",
        "three schedulers are built on one optimizer",
        "Each constructor rewrites the rate, and one-cycle also Adam's first beta.",
        """
        optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=1e-3)
        lr_scheduler.CosineAnnealingLR(optimizer, T_max=50, eta_min=1e-6)
        lr_scheduler.ReduceLROnPlateau(optimizer)
        lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, steps_per_epoch=100, epochs=50)
        print(optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"])
        """,
    ),
    (
        "example 4",
        "`ReduceLROnPlateau(..., verbose=True)`",
        "There is no such argument any more: print `scheduler.get_last_lr()`.",
        "lr_scheduler.ReduceLROnPlateau(torch.optim.SGD([nn.Parameter(torch.zeros(1))]), verbose=True)",
    ),
    (
        "example 4",
        "cosine annealing changes the rate periodically",
        "It is one half wave of `T_max` steps. Stepped further, it climbs back up. Restarts are another scheduler.",
        """
        make = lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
        rates = tl.train.schedules.simulate(make, 101, lr=1.0)[:, 0]
        print(f"start {rates[0]:.1f}, step 50 {rates[50]:.1f}, step 100 {rates[100]:.1f}")
        """,
    ),
    (
        "example 4",
        "the plateau scheduler is fed with a validation accuracy that stays 0.0",
        "The rate is halved again and again, for no reason.",
        """
        rates = tl.train.schedules.simulate(tl.train.schedules.plateau, 20, lr=1.0, metrics=[0.0] * 20)
        print(f"after 20 epochs {rates[-1, 0]:g} of the rate")
        """,
    ),
    (
        "examples 5 and 8",
        "latency on a GPU by `time.time()` around calls of the network",
        "CUDA works on while Python goes on: synchronise before each reading. And a first call is slower than later "
        "ones, also on a processor.",
        """
        model = torchvision.models.resnet18(weights=None).eval()
        x = torch.zeros(1, 3, 224, 224)
        seconds = []
        with torch.inference_mode():
            for call in range(6):
                start = time.perf_counter()
                model(x)
                if x.is_cuda:
                    torch.cuda.synchronize()
                seconds.append(time.perf_counter() - start)
        print("a later call is faster than the first:", min(seconds[1:]) < seconds[0])
        """,
    ),
    (
        "example 5",
        "ResNet-50 25.56 M and EfficientNet-B0 5.29 M parameters, after a head for two classes",
        "Those are the counts with ImageNet's head.",
        """
        for name in ("resnet50", "efficientnet_b0"):
            print(name, f"{tl.models.count(tl.models.create(name, 2, weights=None).parameters()):,}")
        """,
    ),
    (
        "example 6",
        "ResNet-50's V2 weights reach 80.4 %",
        "The weights say what they reach.",
        "print(torchvision.models.ResNet50_Weights.IMAGENET1K_V2.meta['_metrics']['ImageNet-1K']['acc@1'])",
    ),
    (
        "example 6",
        "the image size is read from `min_size`",
        "That is the smallest image that the network takes. What the weights were measured with is in `transforms()`.",
        """
        weights = torchvision.models.ResNet50_Weights.IMAGENET1K_V2
        print("min_size", weights.meta["min_size"], "transforms", weights.transforms().crop_size)
        """,
    ),
    (
        "example 7",
        "timm has more than 700 models, 45 EfficientNets and 78 ViTs with weights",
        "Count them: there are more, and their number changes.",
        """
        for pattern, said in (("*", 700), ("*efficientnet*", 45), ("vit_*", 78)):
            print(pattern, "more than the chapter says:", len(timm.list_models(pattern, pretrained=True)) > said)
        """,
    ),
    (
        "example 8",
        "memory = parameters x 4 bytes",
        "That is the weights. Training holds gradients, the optimizer's moments and, most of all, activations.",
        """
        model = tl.models.create("efficientnet_b0", 2, weights=None)
        held = tl.cost.training_memory(model, 224, batch_size=32)
        print({part: f"{size / 1e6:,.0f} MB" for part, size in held.items()})
        """,
    ),
    (
        "example 9",
        "EfficientNet-B0 with two classes: 5,288,548 parameters, all of them trained",
        "It has fewer, and the optimizer holds `blocks` and `classifier` alone: stem and last convolution never move.",
        """
        model = timm.create_model("efficientnet_b0", num_classes=2)
        held = [*model.blocks.parameters(), *model.classifier.parameters()]
        print(f"{tl.models.count(model.parameters()):,} parameters, {tl.models.count(held):,} in the optimizer")
        """,
    ),
    (
        "example 9",
        "accuracies computed from the number of the epoch, the training loop commented out",
        "No image was seen. In this course, every number comes from a run. Labels in random order show whether a "
        "number was measured.",
        """
        pets = tl.data.load("toypets", model=tl.models.create("tl_resnet", 2)).plain().take(train=200)
        train, val, _ = tl.features.extract_splits(tl.models.create("tl_resnet", 2), pets)
        shuffled = tl.features.Features(train.x, train.y[torch.randperm(len(train.y))])
        for name, part in (("labels", train), ("labels in random order", shuffled)):
            print(f"{name}: {tl.features.fit_probe(part).evaluate(val).accuracy:.2f}")
        """,
    ),
    (
        "example 10",
        "`torch.save(model)` as one of three ways, and `torch.load` of any file",
        "A pickle can run code. `torch.load` refuses it by default now; a safetensors file holds no code at all.",
        """
        class Surprise:
            def __reduce__(self):
                return print, ("code ran",)
        file = io.BytesIO()
        torch.save(Surprise(), file)
        file.seek(0)
        torch.load(file, weights_only=False)
        file.seek(0)
        try:
            torch.load(file)
        except pickle.UnpicklingError:
            print("refused")
        """,
    ),
    (
        "example 10",
        "`torch.quantization.quantize_dynamic` makes a CNN small",
        "It quantises linear layers. In a CNN that is the head alone.",
        """
        model = torchvision.models.resnet18(weights=None)
        linear = [p for m in model.modules() if isinstance(m, nn.Linear) for p in m.parameters()]
        print(f"{tl.models.count(linear) / tl.models.count(model.parameters()):.1%} of ResNet-18 is in linear layers")
        """,
    ),
    (
        "exercise 2",
        'the second stage "fine-tunes all layers"',
        "Its optimizer holds layer4 and the head.",
        """
        model = torchvision.models.resnet50(weights=None, num_classes=2)
        held = [*model.layer4.parameters(), *model.fc.parameters()]
        print(f"{tl.models.count(held) / tl.models.count(model.parameters()):.0%} of the network trains")
        """,
    ),
    (
        "exercises 2 and 3",
        "`pretrained=True` in torchvision; `convnext_large_in22k` in timm",
        "The argument is `weights`; the weights' name is now a tag after a dot.",
        """
        print(timm.list_pretrained("convnext_large.fb_in22k*"), "convnext_large_in22k" in timm.list_models())
        """,
    ),
    (
        "exercise 4",
        "`RandomRotation([0, 90, 180, 270])`",
        "It takes the two ends of a range. Choose among fixed angles with `RandomChoice`.",
        "v2.RandomRotation([0, 90, 180, 270])",
    ),
    (
        "exercise 4",
        "Gaussian blur simulates noise; faces may be mirrored for recognising people",
        "Blur takes detail away, noise adds some. A mirrored face is a face, but nobody's face is symmetric.",
        """
        image = torch.rand(1, 3, 64, 64)
        rough = lambda x: (x[..., 1:] - x[..., :-1]).abs().mean().item()
        print(f"differences of neighbours: {rough(image):.2f}, blurred {rough(v2.GaussianBlur(5)(image)):.2f}, "
              f"with noise {rough(image + 0.2 * torch.randn_like(image)):.2f}")
        """,
    ),
    (
        "exercise 5",
        "`RandomErasing` before `ToTensor`",
        "In torchvision's first transforms it works on tensors alone.",
        """
        image = PIL.Image.new("RGB", (32, 32))
        torchvision.transforms.RandomErasing(p=1)(image)
        """,
    ),
    (
        "exercise 5",
        "`torch.cuda.amp.GradScaler` and `autocast()`, to make training stable",
        "Both have moved to `torch.amp`. Mixed precision makes training fast, not stable; bfloat16 needs no scaler.",
        """
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.amp.GradScaler(enabled=False)
        print(seen[0].category.__name__)
        """,
    ),
]


def shown(code: str) -> str:
    """Run lines, and return what they print, or the last line of their error."""
    import PIL.Image
    import timm
    import torch
    import torchvision
    from torch import nn
    from torch.optim import lr_scheduler
    from torchvision.transforms import v2

    import tlcourse as tl

    torch.manual_seed(0)
    names = {"tl": tl, "torch": torch, "torchvision": torchvision, "timm": timm, "nn": nn, "v2": v2, "PIL": PIL}
    names |= {"lr_scheduler": lr_scheduler, "io": io, "pickle": pickle, "time": time, "warnings": warnings}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            exec(compile(code, "<line>", "exec"), names)
        except Exception as error:
            print(traceback.format_exception_only(error)[-1].strip())
    return printed.getvalue().strip()


def page() -> str:
    """Return the page."""
    parts = [
        "# What the source chapter gets wrong",
        "The chapter that this course follows. `python tools/errata.py` runs each entry's lines and writes what they "
        "print. They use `torch`, `torchvision` with `v2`, `timm`, `nn`, `lr_scheduler`, `PIL`, `tl`, and Python's own "
        "`io`, `pickle`, `time` and `warnings`.",
    ]
    for where, says, true, code in ERRATA:
        code = dedent(code).strip()
        parts.append(f"## {where}: {says}\n\n{true}\n\n```python\n{code}\n```\n\n```\n{shown(code)}\n```")
    return "\n\n".join(parts) + "\n"


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if the page differs")
    if not parser.parse_args().check:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    same = PAGE.read_text(encoding="utf-8") == page()
    print("docs/errata.md is what its lines give." if same else "docs/errata.md differs: run python tools/errata.py")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
