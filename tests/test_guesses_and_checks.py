"""Guesses are asked where somebody reads; checks take right answers in any form and refuse each usual wrong one."""

import copy
import math
import operator
from functools import partial

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn.utils import prune
from torchvision import transforms

import tlcourse as tl
from tlcourse.lessons import checks, guesses
from tlcourse.lessons.steps import STEPS_OF_LESSONS


@pytest.fixture
def reader(monkeypatch):
    """Somebody reads: neither a test nor an unattended run."""
    for name in ("TLCOURSE_UNATTENDED", "PYTEST_VERSION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(guesses, "_CHOSEN", {})


def test_a_guess_is_one_line_outside_a_notebook(reader, capsys):
    guess = tl.guess("How many?", ["none", "all"])
    assert capsys.readouterr().out == "Guess: How many? (none / all)\n"
    guess.compare("all of them")
    assert capsys.readouterr().out == "the result: all of them\n"


@pytest.mark.parametrize("name", ["TLCOURSE_UNATTENDED", "PYTEST_VERSION"])
def test_a_guess_is_silent_where_nobody_reads(reader, monkeypatch, capsys, name):
    monkeypatch.setenv(name, "1")
    tl.guess("How many?", ["none", "all"])
    assert capsys.readouterr().out == ""


def test_buttons_keep_the_guess_when_a_cell_runs_again(reader, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(guesses, "in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", shown.append)
    guess = tl.guess("How many <b>?", ["none", "all"])
    title, row = shown[0].children
    assert "How many &lt;b&gt;?" in title.value
    assert row.value is None
    assert guess.answer is None
    row.value = "all"
    assert tl.guess("How many <b>?", ["none", "all"]).answer == "all"
    assert shown[1].children[1].value == "all"
    guess.compare("none")
    out = capsys.readouterr().out
    assert out == "your guess: all\nthe result: none\n"  # side by side, and no judgement


@pytest.mark.parametrize("choices", [[], ["one"], ["same", "same"]])
def test_a_guess_needs_choices(choices):
    with pytest.raises(ValueError, match="at least two choices"):
        tl.guess("How many?", choices)


def test_a_slider_draws_its_start_where_nobody_can_move_it(monkeypatch):
    drawn = []
    tl.slider(drawn.append, "γ", [0.5, 0.7, 1.0], start=0.7)
    assert drawn == [0.7]
    with pytest.raises(ValueError, match="not among its values"):
        tl.slider(drawn.append, "γ", [0.5, 1.0], start=0.7)
    assert drawn == [0.7]


def test_a_slider_draws_what_the_reader_chooses(reader, monkeypatch):
    shown, drawn = [], []
    monkeypatch.setattr(guesses, "in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", lambda *widgets: shown.extend(widgets))
    tl.slider(drawn.append, "γ", [0.5, 0.7, 1.0], start=0.7)
    assert drawn == [0.7]
    shown[0].value = 1.0
    assert drawn == [0.7, 1.0]


def resnet18(classes=5):
    model = torchvision.models.resnet18(weights=None).requires_grad_(False)
    model.fc = nn.Linear(512, classes)
    return model


def with_dropout():
    model = torchvision.models.resnet18(weights=None).requires_grad_(False)
    model.fc = nn.Sequential(nn.Dropout(0.2), nn.Linear(512, 5))
    return model


def ending_in(layer):
    model = resnet18()
    model.fc = nn.Sequential(model.fc, layer)
    return model


def frozen_after():
    return resnet18().requires_grad_(False)


def one_layer_left():
    model = resnet18()
    model.layer4[1].bn2.weight.requires_grad_(True)
    return model


def by_parameters(model):
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def batch_norms_alone(model):
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and not any(p.requires_grad for p in module.parameters()):
            module.eval()


def whatever_does_not_train(model):
    model.train()
    for module in model.modules():
        if not any(p.requires_grad for p in module.parameters()):
            module.eval()


def everything_in_training_mode(model):
    model.train()


def by_their_weights(model):
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
            module.eval()


def all_batch_norms(model):
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def whole_stages(model):
    model.train()
    for part in model.children():
        if not any(p.requires_grad for p in part.parameters()) and any(True for _ in part.parameters()):
            part.eval()


def also_freezes(model):
    by_parameters(model)
    model.requires_grad_(False)


def stops(model):
    return model.no_such_thing


def groups(rates=(1e-3, 1e-4, 1e-5), leave_out="", foreign=False):
    model = torchvision.models.resnet18(weights=None)
    own = copy.deepcopy(model) if foreign else model
    found = {"fc.": [], "layer4.": [], "": []}
    for name, parameter in own.named_parameters():
        if not (leave_out and name.startswith(leave_out)):
            found[next(key for key in found if name.startswith(key))].append(parameter)
    return model, torch.optim.AdamW([{"params": p, "lr": r} for p, r in zip(found.values(), rates, strict=True)])


def one_group_a_tensor():
    model = torchvision.models.resnet18(weights=None)
    rate = {"fc": 1e-3, "layer4": 1e-4}
    named = model.named_parameters()
    return model, torch.optim.AdamW([{"params": [p], "lr": rate.get(n.split(".")[0], 1e-5)} for n, p in named])


def sgd_groups():
    model, optimizer = groups()
    return model, torch.optim.SGD([{"params": g["params"], "lr": g["lr"]} for g in optimizer.param_groups])


def frozen_groups():
    model, optimizer = groups()
    model.bn1.requires_grad_(False)
    return model, optimizer


def in_two_groups():
    model, optimizer = groups()
    optimizer.param_groups[0]["params"].append(model.layer4[0].conv1.weight)
    return model, optimizer


def unfreeze(model, optimizer, rate=1e-4, stages=("layer4",), extend=True, everything=False):
    for stage in stages:
        getattr(model, stage).requires_grad_(True)
    more = [p for stage in stages for p in getattr(model, stage).parameters()]
    if everything:
        more += list(model.fc.parameters())
    if extend:
        optimizer.add_param_group({"params": more, "lr": rate})


def unfreeze_by_name(model, optimizer):
    for name, parameter in model.named_parameters():
        if name.startswith("layer4"):
            parameter.requires_grad_(True)
            optimizer.add_param_group({"params": [parameter], "lr": 1e-4})


def unfreeze_and_forget(model, optimizer):
    unfreeze(model, optimizer)
    optimizer.state.clear()


def change_all_rates(model, optimizer):
    unfreeze(model, optimizer)
    for group in optimizer.param_groups:
        group["lr"] = 1e-4


def a_new_optimizer(model, optimizer):
    unfreeze(model, optimizer, extend=False)
    return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-4)


def warmup(first=10, last=100, start=1):
    def factor(step):
        if step < first:
            return (step + start) / first
        return (1 + math.cos(math.pi * (step - first) / (last - first))) / 2

    return factor


def one_cycle(optimizer, epochs, batches, top=0.01):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, top, epochs=epochs, steps_per_epoch=batches)


def for_epochs_alone(optimizer, epochs, batches):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=epochs)


def cosine(optimizer, epochs, batches):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)


def one_cycle_elsewhere(optimizer, epochs, batches):
    other = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.9)
    return one_cycle(other, epochs, batches)


def hooked(model, images, remove=True, layer="layer2", mean=(2, 3)):
    rows = []
    hook = getattr(model, layer).register_forward_hook(lambda m, i, output: rows.append(output.mean(mean)))
    with torch.no_grad():
        model(images)
    if remove:
        hook.remove()
    return rows[0]


def only_once(model, images, memory=[]):  # noqa: B006  (the mistake that is meant)
    memory.append(hooked(model, images))
    return memory[0]


def leaves_a_pre_hook(model, images):
    model.layer2.register_forward_pre_hook(lambda module, inputs: None)
    return hooked(model, images)


def leaves_training_mode(model, images):
    found = hooked(model, images)
    model.train()
    return found


def in_pieces(model, images):
    x = model.maxpool(model.act1(model.bn1(model.conv1(images))))
    return model.layer2(model.layer1(x)).flatten(2).mean(2)


def convolution_work(conv, height, width, grouped=True, kernel=2):
    inputs = conv.in_channels // (conv.groups if grouped else 1)
    return math.prod(conv.kernel_size[:kernel]) * inputs * conv.out_channels * height * width


def best_within(table, parameters, multiply_adds, within=operator.le, worst=False):
    fits = [n for n, row in table.items() if within(row["parameters"], parameters)]
    fits = [n for n in fits if within(table[n]["multiply-adds"], multiply_adds)]
    return (min if worst else max)(fits, key=lambda name: table[name]["accuracy"], default=None)


def a_head_of_the_right_width(name):
    network = timm.create_model(name)
    network.reset_classifier(network.num_features)
    return network


def last_within(table, parameters, multiply_adds):
    fits = [n for n, r in table.items() if r["parameters"] <= parameters and r["multiply-adds"] <= multiply_adds]
    return fits[-1] if fits else None


def reset(name):
    network = timm.create_model(name)
    network.reset_classifier(0)
    return network


def best_in_a_loop(table, parameters, multiply_adds):
    best = None
    for name in sorted(table, key=lambda name: -table[name]["accuracy"]):
        row = table[name]
        if best is None and row["parameters"] <= parameters and row["multiply-adds"] <= multiply_adds:
            best = name
    return best


def grid(output, k):
    return nn.functional.adaptive_avg_pool2d(output, k).flatten(1)


def grid_by_pooling(output, k):
    return nn.AvgPool2d(output.shape[-1] // k)(output).reshape(len(output), -1)


def surest(probabilities, labels, share, *, descending=True, cut=round):
    confidence, predicted = probabilities.max(1)
    first = confidence.argsort(descending=descending)[: cut(share * len(labels))]
    return (predicted[first] == labels[first]).float().mean()


def by_numpy(probabilities, labels, share):
    order = np.argsort(-probabilities.numpy().max(1))[: int(share * len(labels))]
    return float((probabilities.numpy().argmax(1) == labels.numpy())[order].mean())


def by_the_lead(probabilities, labels, share):
    first, second = probabilities.topk(2).values.T
    kept = (first - second).argsort(descending=True)[: round(share * len(labels))]
    return (probabilities.argmax(1)[kept] == labels[kept]).float().mean()


def limit(probabilities, labels, wanted, *, lowest=True, none=1.1, strict=False, by=0.0):
    confidence, predicted = probabilities.max(1)
    right = (predicted == labels).float()
    for value in confidence.sort(descending=not lowest).values:
        if right[confidence > value if strict else confidence >= value].mean() >= wanted:
            return value.item() + by
    return none


def limit_by_cumulation(probabilities, labels, wanted):
    confidence = np.concatenate([[1.5], np.sort(probabilities.numpy().max(1))[::-1]])
    order = np.argsort(-probabilities.numpy().max(1), kind="stable")
    right = np.cumsum((probabilities.numpy().argmax(1) == labels.numpy())[order]) / np.arange(1, len(labels) + 1)
    return confidence[np.flatnonzero(np.concatenate([[True], right >= wanted]))[-1]]


def where_it_first_fails(probabilities, labels, wanted):
    confidence, predicted = probabilities.max(1)
    order = confidence.argsort(descending=True)
    right = (predicted == labels)[order].float().cumsum(0) / torch.arange(1, len(labels) + 1)
    stays = int((right >= wanted).int().cumprod(0).sum())
    return confidence[order][stays - 1] if stays else 2


def of_the_right_ones(probabilities, labels, wanted):
    confidence, predicted = probabilities.max(1)
    return confidence[predicted == labels].quantile(1 - min(wanted, 1))


def from_config(name, **changes):
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    return timm.data.create_transform(**(config | changes))


def by_the_model(name):
    return timm.data.create_transform(**timm.data.resolve_model_data_config(timm.create_model(name)))


def by_the_package(name):
    return tl.preprocessing.get_preprocessing(timm.create_model(name)).evaluation()


def written_out(name):
    c = timm.get_pretrained_cfg(name)
    steps = [
        transforms.Resize(math.floor(c.input_size[-1] / c.crop_pct), transforms.InterpolationMode(c.interpolation)),
        transforms.CenterCrop(c.input_size[-1]),
        transforms.ToTensor(),
        transforms.Normalize(c.mean, c.std),
    ]
    return transforms.Compose(steps)


def of_imagenet(name):
    return from_config(name, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def of_all_images(probabilities, labels, share):
    right = probabilities.argmax(1) == labels
    return right[probabilities.amax(1).argsort(descending=True)[: round(share * len(labels))]].sum().item() / len(
        labels
    )


def pruned(limit="all", keep=1.0, least=2, in_place=True, exact=True):
    """A way to set weights to zero: one limit for all layers, or for each layer its own."""

    def answer(model, share):
        model = model if in_place else copy.deepcopy(model)
        layers = [w for w in model.parameters() if w.dim() >= least]
        share = share if exact else share / 2
        every = torch.cat([w.detach().abs().flatten() for w in layers])
        with torch.no_grad():
            for w in layers:
                size = every if limit == "all" else w.abs().flatten()
                w[w.abs() <= size.kthvalue(int(share * len(size))).values] = 0
                w.mul_(keep)

    return answer


def masks_left(model, share):
    layers = [(module, "weight") for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    prune.global_unstructured(layers, prune.L1Unstructured, amount=share)


def by_torch(model, share):
    layers = [(module, "weight") for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    prune.global_unstructured(layers, prune.L1Unstructured, amount=share)
    for layer in layers:
        prune.remove(*layer)


def masked(model, share):
    layers = [p for n, p in model.named_parameters() if p.ndim > 1]
    every = torch.cat([w.data.abs().ravel() for w in layers]).sort().values
    for w in layers:
        w.data *= w.data.abs() > every[int(share * len(every))]


def exported(batch=True, training=False, many=2, **limits):
    model = tl.models.create("tl_resnet", 2, weights=None).eval()
    images = torch.zeros(many, 3, 64, 64)
    shapes = [{0: torch.export.Dim("batch", **limits)}] if batch else None
    made = copy.deepcopy(model).train(training)
    return model, torch.export.export(made, (images,), dynamic_shapes=shapes)


def automatic():
    model = tl.models.create("tl_resnet", 2, weights=None).eval()
    shapes = ({0: torch.export.Dim.AUTO},)
    return model, torch.export.export(model, (torch.zeros(8, 3, 64, 64),), dynamic_shapes=shapes)


def low_rank_count(layer, rank):
    return rank * (layer.weight.shape[0] + layer.weight[0].numel())


def by_the_layers_own_numbers(layer, rank):
    if isinstance(layer, nn.Linear):
        return rank * (layer.in_features + layer.out_features)
    inputs = layer.in_channels // layer.groups * layer.kernel_size[0] * layer.kernel_size[1]
    return rank * (layer.out_channels + inputs)


def squared_kernel(layer, rank):
    return rank * sum((layer.weight.shape[0], layer.weight.shape[1] * getattr(layer, "kernel_size", [1])[0] ** 2))


def with_counters(a, b, make):
    return {name: make(tensor) if tensor.ndim == 0 else tensor for name, tensor in mean_of(a, b).items()}


def mean_of(a, b, types=True, without="", weight=0.5):
    mean = {name: weight * a[name] + (1 - weight) * b[name] for name in a if not (without and without in name)}
    return {name: tensor.to(a[name].dtype) for name, tensor in mean.items()} if types else mean


def floats_alone(a, b):
    return {name: (a[name] + b[name]) / 2 if a[name].is_floating_point() else b[name] for name in a}


def parameters_alone(a, b):
    return {name: a[name] if "running" in name or "num" in name else (a[name] + b[name]) / 2 for name in a}


def in_place(a, b):
    return {name: tensor.add_(b[name]).div_(2) if tensor.is_floating_point() else tensor for name, tensor in a.items()}


RIGHT = {
    "0/set": ["validation", "val", " Validation set ", "the validation images.", "pets.val"],
    "3.1/hook": [hooked, in_pieces],
    "3.1/grid": [grid, grid_by_pooling],
    "3.2/freeze": [resnet18(), with_dropout(), tl.models.freeze(timm.create_model("resnet18", num_classes=5))],
    "3.2/training-mode": [by_parameters, batch_norms_alone, tl.models.train_mode],
    "3.3/groups": [groups(), one_group_a_tensor()],
    "3.3/unfreeze": [unfreeze, unfreeze_by_name],
    "3.3b/warmup": [warmup(), lambda step: torch.tensor(warmup()(step)), lambda step: np.float32(warmup()(step))],
    "3.3b/length": [one_cycle, partial(one_cycle, top=[0.01])],
    "3.4/multiply-adds": [
        convolution_work,
        lambda conv, h, w: conv.weight.numel() * h * w,
        lambda conv, h, w: torch.tensor(conv.weight.shape).prod() * h * w,
    ],
    "3.4/choose": [best_within, best_in_a_loop],
    "3.5/features": [partial(timm.create_model, num_classes=0), reset],
    "3.5/transform": [from_config, by_the_model, by_the_package, written_out],
    "3.6/limit": [limit, lambda *given: torch.tensor(limit(*given))],
    "3.6/surest": [surest, by_numpy, lambda *given: surest(*given).item()],
    "3.6b/one-limit": [pruned(), masked, by_torch],
    "3.6b/any-batch": [exported(), automatic()],
    "3.7/low-rank": [low_rank_count, by_the_layers_own_numbers],
    "3.7/mean": [mean_of, floats_alone],
}
WRONG = {
    "0/set": [
        ("training", "by heart"),
        ("test", "end of a project"),
        (7, "does not name"),
        ("training and validation", "does not name"),
        ("not validation", "does not name"),
        ("cross-validation", "does not name"),
    ],
    "3.1/hook": [
        (lambda model, images: hooked(model, images, remove=False), "hook is left"),
        (lambda model, images: hooked(model, images, layer="layer3"), "asked for"),
        (lambda model, images: hooked(model, images, mean=(0, 2)), "asked for"),
        (lambda model, images: hooked(model, images) * 2, "numbers are not"),
        (lambda model, images: None, "NoneType"),
        (torch.zeros(4, 64), "Give a function"),
        (only_once, "in its second call"),
        (leaves_a_pre_hook, "hook is left"),
        (leaves_training_mode, "mode"),
    ],
    "3.1/grid": [
        (lambda output, k: nn.functional.adaptive_max_pool2d(output, k).flatten(1), "take the mean"),
        (lambda output, k: grid(output, 1), "asked for"),
        (lambda output, k: nn.functional.adaptive_avg_pool2d(output, k), "asked for"),
        (lambda output, k: nn.functional.avg_pool2d(output, k).flatten(1), "asked for"),
        (lambda output, k: grid(output.transpose(2, 3), k), "numbers are not"),
        (lambda output, k: None, "NoneType"),
        (nn.AdaptiveAvgPool2d(2), "Give a function"),
    ],
    "3.2/freeze": [
        (resnet18(2), "gives 2 scores"),
        (ending_in(nn.Softmax(1)), "gives probabilities"),
        (ending_in(nn.ReLU()), "below zero"),
        (ending_in(nn.Sigmoid()), "below zero"),
        (frozen_after(), "frozen: freeze first"),
        (one_layer_left(), "layer4.1.bn2.weight"),
        (torchvision.models.resnet18(weights=None, num_classes=5), "still train"),
        (torchvision.models.resnet34(weights=None, num_classes=5), "two in each"),
        ("resnet18", "Give the ResNet-18 itself"),
    ],
    "3.2/training-mode": [
        (everything_in_training_mode, "would still update its statistics"),
        (all_batch_norms, "layer4.0.bn1 trains too"),
        (by_their_weights, "bn1 trains too"),
        (whole_stages, "layer4.0.bn1 is frozen"),
        (nn.Module.eval, "Start with"),
        (also_freezes, "changes what is frozen"),
        (stops, "no_such_thing"),
        (whatever_does_not_train, "dropout is switched off"),
        (resnet18(), "Give a function"),
    ],
    "3.3/groups": [
        (groups(rates=(1e-3, 1e-3, 1e-5)), "layer4"),
        (groups(rates=(1e-3, 1e-4, 1e-4)), "conv1.weight"),
        (groups(leave_out="bn1"), "in no group"),
        (groups(leave_out="layer2"), "would not train"),
        (groups(foreign=True), "not one of"),
        ((resnet18(), [{"params": []}]), "Give the optimizer"),
        (sgd_groups(), "AdamW is asked for"),
        (frozen_groups(), "bn1.weight is frozen"),
        (in_two_groups(), "layer4.0.conv1.weight is in the optimizer twice"),
    ],
    "3.3/unfreeze": [
        (partial(unfreeze, rate=1e-3), "not 0.0001"),
        (partial(unfreeze, stages=("layer3", "layer4")), "layer3.0.bn1.bias trains, too"),
        (partial(unfreeze, stages=("layer3",)), "layer3.0.bn1.bias trains, too"),
        (partial(unfreeze, extend=False), "not in the optimizer you were given"),
        (partial(unfreeze, everything=True), "ValueError"),
        (unfreeze_and_forget, "moments are gone"),
        (change_all_rates, "fc.bias has the rate 0.0001"),
        (a_new_optimizer, "not in the optimizer you were given"),
        (lambda model, optimizer: None, "does not train"),
        (resnet18(), "Give a function"),
    ],
    "3.3b/warmup": [
        (warmup(start=0), "at step 0"),
        (warmup(first=11), "at step 0"),
        (warmup(last=90), "at step 11"),
        (lambda step: min(1.0, (step + 1) / 10), "at step 11"),
        (lambda step: None, "None"),
        (0.1, "Give a function"),
        (lambda step: 1 / step, "ZeroDivisionError"),
    ],
    "3.3b/length": [
        (for_epochs_alone, "yours has 5"),
        (lambda optimizer, epochs, batches: one_cycle(optimizer, batches, batches), "are 35 steps"),
        (partial(one_cycle, top=0.1), "highest rate is 0.1"),
        (partial(one_cycle, top=0.0104), "highest rate is 0.0104"),
        (cosine, "Return a OneCycleLR"),
        (one_cycle_elsewhere, "another optimizer"),
        (lambda *arguments: None, "NoneType"),
        (torch.optim.lr_scheduler.OneCycleLR, "give a function"),
        (35, "give a function"),
    ],
    "3.4/multiply-adds": [
        (partial(convolution_work, grouped=False), "with groups"),
        (partial(convolution_work, kernel=1), "with a kernel of 3 x 3"),
        (lambda conv, h, w: 2 * convolution_work(conv, h, w), "not 230,400"),
        (lambda conv, h, w: conv.weight.numel() * h * w + conv.out_channels, "with a kernel of 3 x 3"),
        (lambda conv, h, w: None, "None"),
        (lambda conv, h, w: conv.kernel * h * w, "AttributeError"),
        (nn.Conv2d(3, 8, 3), "Give a function"),
        (230_400, "Give a function"),
    ],
    "3.4/choose": [
        (partial(best_within, within=operator.lt), "exactly at a limit"),
        (partial(best_within, worst=True), "most accurate within both"),
        (last_within, "it gives 'b', not 'c'"),
        (lambda table, parameters, work: best_within(table, parameters, 1e9), "most accurate within both"),
        (lambda table, parameters, work: best_within(table, 1e9, work), "most accurate within both"),
        (lambda *arguments: best_within(*arguments) or "none", "nothing is within these limits"),
        (lambda *arguments: max(best_within(*arguments)), "TypeError"),
        (lambda *arguments: [best_within(*arguments)], "['b']"),
        ("b", "Give a function"),
    ],
    "3.5/features": [
        (timm.create_model, "200 numbers"),
        (partial(timm.create_model, num_classes=2), "2 numbers"),
        (a_head_of_the_right_width, "still has a head"),
        (partial(timm.create_model, num_classes=0, global_pool=""), "positions are left"),
        (partial(timm.create_model, features_only=True), "gives a list"),
        (lambda name: timm.create_model("tl_resnet", num_classes=0), "Its features are 512"),
        (lambda name: name, "Return the network"),
        (timm.create_model("resnet10t"), "Give a function"),
    ],
    "3.5/transform": [
        (of_imagenet, "Its weights want {'mean': (0.5, 0.5, 0.5)"),
        (lambda name: from_config(name, input_size=(3, 224, 224)), "(3, 176, 176)"),
        (lambda name: from_config(name, is_training=True), "a transform for training"),
        (lambda name: from_config(name, crop_pct=0.6), "crop_pct"),
        (lambda name: timm.data.create_transform(224), "a deviation of"),
        (lambda name: transforms.Resize((224, 224)), "gives a Image, not a tensor"),
        (timm.get_pretrained_cfg, "Return the transform"),
        (from_config("resnet18"), "cannot use this answer"),
        ({"mean": 0.5}, "Give a function"),
    ],
    "3.6/limit": [
        (lambda *given: limit(*given, lowest=False), "A lower limit reaches the accuracy too"),
        (where_it_first_fails, "A lower limit reaches the accuracy too"),
        (lambda p, labels, wanted: wanted, "A lower limit"),
        (lambda p, labels, wanted: 0.0, "too few"),
        (of_the_right_ones, "too few"),
        (lambda *given: limit(*given, none=0.0), "Return more than 1"),
        (lambda *given: limit(*given, none=1.0), "Return more than 1"),
        (limit_by_cumulation, "too few"),
        (lambda *given: limit(*given, by=1e-3), "A lower limit"),
        (lambda p, labels, wanted: p.amax(1), "Return one number"),
        (0.9, "Give a function"),
    ],
    "3.6/surest": [
        (lambda *given: surest(*given, descending=False), "lowest confidence"),
        (of_all_images, "for a share of 0.8"),
        (by_the_lead, "for a share of"),
        (lambda p, labels, share: surest(p, labels, 1.0), "for a share of 0.8"),
        (lambda p, labels, share: surest(p[:200], labels[:200], 160 / 200), "for a share of"),
        (lambda p, labels, share: surest(p, labels, share).repeat(2), "one number"),
        (0.9, "Give a function"),
    ],
    "3.6b/one-limit": [
        (pruned(limit="layer"), "one limit for all layers"),
        (pruned(keep=0.5), "weights that stay have changed"),
        (pruned(least=1), "biases or batch norms"),
        (pruned(in_place=False), "in place"),
        (pruned(exact=False), "with share 0.5, 0.25"),
        (masks_left, "0.weight is gone"),
        (nn.Linear(2, 2), "Give a function"),
    ],
    "3.6b/any-batch": [
        (exported(batch=False, many=8), "refuses 1 images"),
        (exported(max=16), "refuses 65 images"),
        (exported(training=True), "evaluation mode"),
        ((exported()[0], exported()[1].module()), "Give what"),
    ],
    "3.7/low-rank": [
        (lambda layer, rank: layer.weight.numel(), "rank 1 it gives 210, and 37"),
        (lambda layer, rank: rank * sum(layer.weight.shape[:2]), "Conv2d(8, 20, kernel_size=(1, 3)"),
        (lambda layer, rank: low_rank_count(layer, 1), "rank 6"),
        (lambda layer, rank: low_rank_count(layer, min(rank, *layer.weight.shape[:2])), "rank 9"),
        (lambda layer, rank: str(low_rank_count(layer, rank)), "Return a number"),
        (squared_kernel, "Conv2d(8, 20, kernel_size=(1, 3)"),
        (lambda layer, rank: rank * (layer.in_channels + layer.out_channels), "in_channels"),
        (64, "Give a function"),
    ],
    "3.7/mean": [
        (lambda a, b: with_counters(a, b, lambda t: torch.full_like(t, -9)), "is -9, and it counts batches: 0 and 4"),
        (lambda a, b: with_counters(a, b, lambda t: t.expand(7)), "is (7,) and was ()"),
        (lambda a, b: {name: tensor[None] for name, tensor in mean_of(a, b).items()}, "and was"),
        (lambda a, b: mean_of(a, b, types=False), "num_batches_tracked is torch.float32"),
        (lambda a, b: mean_of(a, b, without="running"), "other names"),
        (lambda a, b: mean_of(a, b, weight=1.0), "is not the mean"),
        (parameters_alone, "Statistics of batch norms"),
        (in_place, "Make new tensors"),
        (lambda a, b: None, "other names"),
        ({}, "Give a function"),
    ],
}


def test_every_step_of_the_lessons_is_tried():
    assert set(RIGHT) == set(WRONG) == set(STEPS_OF_LESSONS)


@pytest.mark.parametrize("name", RIGHT)
def test_no_answer_is_not_yet(name):
    for answer in (..., None):
        assert tl.check(name, answer).outcome == "not yet"


@pytest.mark.parametrize(("name", "answer"), [(name, a) for name, answers in RIGHT.items() for a in answers])
def test_right_answers_are_right_whatever_their_form(name, answer):
    verdict = tl.check(name, answer)
    assert verdict.outcome == "right", verdict
    assert len(verdict.message) > 40


@pytest.mark.parametrize(("name", "answer", "reason"), [(n, *pair) for n, pairs in WRONG.items() for pair in pairs])
def test_wrong_answers_are_refused_with_their_reason(name, answer, reason):
    verdict = tl.check(name, answer)
    assert verdict.outcome == "not right"
    assert reason in verdict.message


def test_an_error_in_the_readers_code_names_its_line():
    namespace = {}
    exec(compile("def answer(step):\n    return steps\n", "<cell>", "exec"), namespace)
    verdict = tl.check("3.3b/warmup", namespace["answer"])
    assert "line 2" in verdict.message
    assert "name 'steps' is not defined" in verdict.message


def test_a_head_whose_random_scores_are_all_positive_is_right():
    torch.manual_seed(26)  # one network in a hundred is like this
    assert tl.check("3.2/freeze", resnet18()).outcome == "right"


def test_a_verdict_is_text_and_a_box():
    verdict = checks.Verdict("not right", "a <b> is missing\n`x < 1` shows it")
    assert str(verdict) == "not right: a <b> is missing\n`x < 1` shows it"
    assert "a &lt;b&gt; is missing<br><code>x &lt; 1</code> shows it" in verdict._repr_html_()
    with pytest.raises(ValueError, match=r"3\.2/freeze"):
        tl.check("9.9/none", 1)
