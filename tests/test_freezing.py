"""A frozen stage is bit-identical after training, whatever its norms are and whoever trains."""

import copy
import io
from functools import partial

import pytest
import timm
import torch
import torchvision
from timm.layers import GroupNorm
from timm.models.deit import VisionTransformerDistilled
from torch import nn
from torch.nn import functional as F

import tlcourse as tl
from tlcourse.models.stage import NORMS

STEPS = 20


def with_groups():
    model = timm.create_model("tl_resnet", num_classes=2, norm_layer=partial(GroupNorm, num_groups=8))
    model.preprocessing = tl.preprocessing.get_preprocessing(model)
    return model


def by_name(name):
    return partial(tl.models.create, name, 2, weights=None)


# Norm -> a model that has it, and the kind of module to find in it.
MODELS = {
    "batch": (by_name("tl_resnet"), torch.nn.BatchNorm2d),
    "layer": (by_name("test_vit"), torch.nn.LayerNorm),
    "group": (with_groups, torch.nn.GroupNorm),
    "batch and activation in one": (by_name("test_efficientnet"), timm.layers.BatchNormAct2d),
}


class Batches:
    """The same few random images for every pass, as `fit` takes them."""

    def __init__(self, side, steps):
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(steps, 2, 3, side, side, generator=generator)
        self.train = [(batch, torch.tensor([0, 1])) for batch in images]
        self.val = self.train[:1]


def by_fit(model, batches, optimizer):
    tl.train.fit(model, batches, optimizer, epochs=2)


def by_plain_loop(model, batches, optimizer, train=tl.models.train_mode):
    for _ in range(2):
        train(model)
        for images, labels in batches.train:
            optimizer.zero_grad(set_to_none=False)  # the worst case: gradients of zero instead of none
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
        model.eval()


def by_own_loop(model, batches, optimizer):
    """A loop that knows nothing of freezing and calls `model.train()`."""
    by_plain_loop(tl.models.keep_frozen(model), batches, optimizer, train=lambda model: model.train())


@pytest.mark.parametrize("train", [by_fit, by_plain_loop, by_own_loop])
@pytest.mark.parametrize("norm", MODELS)
def test_frozen_stages_are_bit_identical_after_twenty_steps(norm, train):
    torch.manual_seed(0)
    create, kind = MODELS[norm]
    model = create()
    parts = tl.models.stages(model)
    middle = len(parts) // 2
    assert any(isinstance(module, kind) for module in model.modules())
    model(
        torch.randn(2, 3, model.preprocessing.size, model.preprocessing.size)
    ).sum().backward()  # gradients left behind
    tl.models.unfreeze_from(model, parts[middle].name)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)  # it holds all of them
    train(model, Batches(model.preprocessing.size, STEPS // 2), optimizer)
    now = model.state_dict()
    for i, part in enumerate(parts):
        same = [torch.equal(now[name], before[name]) for name in (*part.parameters, *part.buffers) if name in now]
        assert all(same) if i < middle else not any(same[: len(part.parameters)]), part.name
    if issubclass(kind, NORMS):  # and above, the statistics did move
        buffers = [name for part in parts[middle:] for name in part.buffers]
        assert buffers
        assert not any(torch.equal(now[name], before[name]) for name in buffers)


@pytest.mark.parametrize("norm", MODELS)
def test_the_recipes_leave_the_backbone_bit_identical(norm):
    torch.manual_seed(0)
    model = MODELS[norm][0]()
    splits = tl.data.load("toypets", model=model).take(train=20, val=4, test=4)
    for recipe in (tl.recipes.linear_probe, partial(tl.recipes.frozen, epochs=2, batch_size=2)):
        before = copy.deepcopy(model.state_dict())
        recipe(model, splits)
        head = f"{tl.models.head_name(model)}."
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name]) != name.startswith(head), (recipe, name)


def test_fine_tuning_is_of_everything(monkeypatch):
    """What training moves, whether or not an epoch is as good as the probe that it started from."""
    fit, moved = tl.train.fit, set()

    def watched(model, *args, **options):
        history = fit(model, *args, **options)
        moved.update(name for name, value in model.state_dict().items() if not torch.equal(value, before[name]))
        return history

    monkeypatch.setattr(tl.recipes, "fit", watched)
    model = tl.models.freeze(tl.models.create("tl_resnet", 2, weights=None))
    before = copy.deepcopy(model.state_dict())
    splits = tl.data.load("toypets", model=model).take(train=8, val=4, test=4)
    tl.recipes.fine_tune(model, splits, epochs=1, batch_size=4)
    assert moved == before.keys()


def norms_in_training(model):
    return {
        name.split(".")[0] for name, module in model.named_modules() if isinstance(module, NORMS) and module.training
    }


def test_keep_frozen_follows_what_is_frozen():
    model = tl.models.freeze(tl.models.create("tl_resnet", 2, weights=None))
    assert tl.models.keep_frozen(model) is model
    assert norms_in_training(model) == set()
    tl.models.unfreeze_from(model, "layer4")
    assert norms_in_training(model.train()) == {"layer4"}
    assert model.training
    assert model.fc.training
    assert not any(module.training for module in model.eval().modules())
    assert all(module.training for module in tl.models.unfreeze(model).train().modules())


def test_keep_frozen_overrides_the_loop_that_lets_statistics_move():
    model = tl.models.freeze(tl.models.create("tl_resnet", 2, weights=None))
    assert norms_in_training(tl.models.train_mode(model, frozen_bn="train"))
    assert norms_in_training(tl.models.train_mode(tl.models.keep_frozen(model), frozen_bn="train")) == set()


def test_keep_frozen_holds_in_copies_and_wrappers_and_can_be_ended():
    model = tl.models.keep_frozen(tl.models.freeze(tl.models.create("tl_resnet", 2, weights=None)))
    other = copy.deepcopy(model)
    tl.models.unfreeze(other).train()
    assert norms_in_training(model) == set()  # the copy's call did not reach the original
    assert "layer1" in norms_in_training(other)
    compiled = torch.compile(model, backend="eager")
    compiled.train()
    assert norms_in_training(model) == set()
    assert "train" not in model.state_dict()
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert norms_in_training(loaded.train()) == set()
    assert "layer1" in norms_in_training(tl.models.unfreeze(loaded).train())
    del model.train
    assert "layer1" in norms_in_training(model.train())


def test_distilled_transformers_train_both_heads():
    with torch.device("meta"):
        model = tl.models.freeze(tl.models.create("deit_tiny_distilled_patch16_224", 7, weights=None))
    assert tl.models.head_names(model) == ["head", "head_dist"]
    assert tl.models.stages(model)[-1].trainable == 2 * 7 * 193
    tl.models.replace_head(model, 3)
    assert [layer.out_features for layer in (model.head, model.head_dist)] == [3, 3]


def test_two_heads_are_trained_and_no_probe_is_put_into_them():
    model = VisionTransformerDistilled(img_size=32, patch_size=16, embed_dim=16, depth=1, num_heads=2, num_classes=2)
    model.pretrained_cfg = {"classifier": ("head", "head_dist"), "input_size": (3, 32, 32)}
    splits = tl.data.load("toypets", model=model).take(train=8, val=4, test=4)
    before = copy.deepcopy(model.state_dict())
    tl.recipes.fine_tune(model, splits, epochs=1, batch_size=4)
    assert not any(torch.equal(value, before[name]) for name, value in model.state_dict().items() if "head" in name)
    with pytest.raises(ValueError, match="one head with weight and bias, not head, head_dist"):
        tl.recipes.linear_probe(model, splits)


def test_a_copy_of_a_librarys_classifier_is_new_before_and_after_training():
    model = torchvision.models.alexnet()
    own = [nn.Dropout(), nn.Linear(9216, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU()]
    model.classifier = nn.Sequential(*own, nn.Linear(4096, 2))
    tl.models.freeze(model)
    assert all(p.requires_grad for p in model.classifier.parameters())
    with torch.no_grad():
        model.classifier[1].weight.mul_(3)
    tl.models.freeze(model)
    assert all(p.requires_grad for p in model.classifier.parameters())
