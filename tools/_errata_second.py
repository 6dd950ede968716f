"""What the chapter gets wrong in sections 3.4 to 3.6, examples 5 to 10, and in its exercises."""

# Where, what the chapter says, what is true, and lines that show it.
ERRATA = [
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
        probe = lambda y: tl.features.fit_probe(tl.features.Features(train.x, y)).evaluate(val).accuracy
        orders = [torch.randperm(200, generator=torch.Generator().manual_seed(seed)) for seed in range(5)]
        print(f"labels: {probe(train.y):.1f}")
        print(f"labels in random order, mean of five: {sum(probe(train.y[order]) for order in orders) / 5:.1f}")
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
