"""What the chapter gets wrong in sections 3.1 to 3.3, examples 1 to 4."""

# Where, what the chapter says, what is true, and lines that show it.
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
]
