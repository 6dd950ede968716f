"""Stages: a partition in the order of the forward pass; freezing that holds."""

import copy

import pytest
import timm
import torch
from torch import nn

import tlcourse as tl
from tlcourse.models.stages import NORMS

FAMILIES = [
    "tl_resnet",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "timm/resnet26d",
    "squeezenet1_0",
    "squeezenet1_1",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "timm/efficientnet_b0",
    "vit_b_16",
    "vit_tiny_patch16_224",
    "deit_tiny_patch16_224",
]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_tensor_is_in_exactly_one_stage(name):
    with torch.device("meta"):
        model = tl.models.create(name, 7, weights=None)
    parts = tl.models.stages(model)
    parameters = [n for part in parts for n in part.parameters]
    buffers = [n for part in parts for n in part.buffers]
    assert sorted(parameters) == sorted(n for n, _ in model.named_parameters())
    assert sorted(buffers) == sorted(n for n, _ in model.named_buffers())
    head = tl.models.head(model)
    assert {id(p) for p in parts[-1].parameters.values()} == {id(p) for p in head.parameters()}
    assert parts[0].name == "stem"
    assert 5 <= len(parts) <= 16


@pytest.mark.parametrize("name", FAMILIES)
def test_the_order_is_that_of_the_forward_pass(name):
    with torch.device("meta"):
        model = tl.models.create(name, 7, weights=None).eval()
    stage_of = {n: i for i, part in enumerate(tl.models.stages(model)) for n in (*part.parameters, *part.buffers)}
    seen = []
    for module_name, module in model.named_modules():
        own = [f"{module_name}.{n}" for n, _ in module.named_parameters(recurse=False)]
        if module_name and own:
            module.register_forward_pre_hook(lambda *_, stage=stage_of[own[0]]: seen.append(stage))
    size = model.preprocessing.size
    model(torch.empty(1, 3, size, size, device="meta"))
    assert seen == sorted(seen)
    assert set(seen) == set(range(len(tl.models.stages(model))))


class Unknown(nn.Module):
    """A learner's own network, with a head that is recognised and a body that is not."""

    def __init__(self):
        super().__init__()
        self.mystery, self.fc = nn.Linear(2, 2), nn.Linear(2, 2)


def test_stages_of_an_unknown_architecture_name_the_tensor():
    with pytest.raises(ValueError, match=r"Unknown: no rule says which stage 'mystery\.weight'"):
        tl.models.stages(Unknown())


def test_unfreezing_counts_of_resnet50():
    model = tl.models.create("resnet50", 2, weights=None)

    def trainable():
        return sum(s.trainable for s in tl.models.stages(model))

    tl.models.freeze(model)
    assert trainable() == 4_098
    tl.models.unfreeze_from(model, "layer4")
    assert trainable() == 14_968_834
    tl.models.unfreeze_from(model, "layer3")
    assert trainable() == 22_067_202
    tl.models.unfreeze(model)
    assert trainable() == 23_512_130


def test_unfreezing_from_an_unknown_stage_lists_the_stages():
    model = tl.models.create("tl_resnet", 2, weights=None)
    with pytest.raises(ValueError, match="stem, layer1, layer2, layer3, layer4, head"):
        tl.models.unfreeze_from(model, "layer5")


@pytest.mark.parametrize("name", ["tl_resnet", "squeezenet1_1", "timm/efficientnet_b0", "vit_tiny_patch16_224"])
def test_a_frozen_body_is_bit_identical_after_training(name):
    torch.manual_seed(0)
    if name.startswith("vit"):
        model = timm.create_model(name, img_size=64, depth=2, num_classes=2)
    else:
        model = tl.models.create(name, 2, weights=None)
    tl.models.freeze(model)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    batches = [(torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 0, 1])) for _ in range(3)]
    data = Loaders(batches)
    tl.train.fit(model, data, optimizer, epochs=2)
    head = tl.models.head_name(model)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) != key.startswith(head), key


class Loaders:
    """Two lists of batches, as `fit` takes them."""

    def __init__(self, train, val=None):
        self.train, self.val = train, val or train


def test_a_plain_loop_moves_the_statistics_of_a_frozen_body():
    """The trap itself: without train_mode the statistics move although no parameter does."""
    torch.manual_seed(0)
    model = tl.models.freeze(tl.models.create("tl_resnet", 2, weights=None))
    before = copy.deepcopy(model.state_dict())
    batches = Loaders([(torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 0, 1]))])
    optimizer = torch.optim.SGD(tl.models.head(model).parameters(), lr=0.1)
    tl.train.fit(model, batches, optimizer, epochs=1, frozen_norms="train")
    moved = [k for k, v in model.state_dict().items() if "running" in k and not torch.equal(v, before[k])]
    assert len(moved) == len([k for k in before if "running" in k])
    assert torch.equal(model.layer1[0].conv1.weight, before["layer1.0.conv1.weight"])


def test_train_mode_follows_what_is_frozen():
    model = tl.models.create("tl_resnet", 2, weights=None)
    tl.models.unfreeze_from(model, "layer3")
    tl.models.train_mode(model)
    for stage in tl.models.stages(model):
        norms = {n.rpartition(".")[0] for n in stage.buffers}
        for name in norms:
            module = model.get_submodule(name)
            assert isinstance(module, NORMS)
            assert module.training == (stage.name in ("layer3", "layer4"))
    with pytest.raises(ValueError, match="frozen_norms"):
        tl.models.train_mode(model, frozen_norms="off")


def test_freezing_drops_gradients_left_behind():
    model = tl.models.create("tl_resnet", 2, weights=None)
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    tl.models.freeze(model)
    assert all(p.grad is None for n, p in model.named_parameters() if not n.startswith("fc."))
    assert model.fc.weight.grad is not None


def test_rates_fall_towards_the_stem_by_the_formula():
    model = tl.models.create("tl_resnet", 2, weights=None)
    groups = tl.models.param_groups(model, 1e-2, decay=0.1)
    assert [g["name"] for g in groups] == ["stem", "layer1", "layer2", "layer3", "layer4", "head"]
    assert [g["lr"] for g in groups] == pytest.approx([1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2])
    held = [id(p) for g in groups for p in g["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())


def test_groups_hold_only_what_trains():
    model = tl.models.unfreeze_from(tl.models.create("tl_resnet", 2, weights=None), "layer4")
    assert [g["name"] for g in tl.models.param_groups(model, 1.0)] == ["layer4", "head"]
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="No parameter is trainable"):
        tl.models.param_groups(model, 1.0)
    with pytest.raises(ValueError, match="must be positive"):
        tl.models.param_groups(tl.models.unfreeze(model), -1.0)


def test_summary_adds_up():
    model = tl.models.freeze(tl.models.create("resnet50", 2, weights=None))
    rows = tl.models.summary(tl.models.train_mode(model))
    assert rows[-1]["parameters"] == sum(row["parameters"] for row in rows[:-1]) == 23_512_130
    assert rows[-1]["trainable"] == 4_098
    assert {row["batch norm"] for row in rows[:-2]} == {"eval"}
    assert {row["batch norm"] for row in tl.models.summary(model.train())[:-2]} == {"train"}
    assert "23,512,130" in str(rows)
    assert "<table>" in rows._repr_html_()
