"""Stages: a partition in the order of the forward pass; freezing that holds."""

import copy
import sys

import pytest
import torch
from timm.layers import BatchNormAct2d, SyncBatchNormAct
from torch import nn

import tlcourse as tl
from tlcourse.models.stage import NORMS

FAMILIES = {
    "tl_resnet": ["stem", "layer1", "layer2", "layer3", "layer4", "head"],
    "squeezenet1_1": ["stem", "features.3", "features.6", "features.9", "head"],
    "densenet121": ["stem", *(f"features.denseblock{i}" for i in range(1, 5)), "features.norm5", "head"],
    "vgg16": ["stem", "features.5", "features.10", "features.17", "features.24", "classifier.0", "head"],
    "swin_t": ["stem", "features.1", "features.3", "features.5", "features.7", "norm", "head"],
    "convnext_tiny": ["stem", "features.1", "features.3", "features.5", "features.7", "classifier.0", "head"],
    "timm/efficientnet_b0": ["stem", *(f"blocks.{i}" for i in range(7)), "conv_head", "head"],
    "vit_tiny_patch16_224": ["stem", *(f"blocks.{i}" for i in range(12)), "norm", "head"],
    "timm/twins_svt_small": ["stem", *(f"blocks.{i}" for i in range(4)), "norm", "head"],
    "selecsls42": ["stem", *(f"features.{i}" for i in range(6)), "neck", "head"],
}


def meta_model(name):
    with torch.device("meta"):
        return tl.models.create(name, 7, weights=None)


def names(model, **options):
    return [part.name for part in tl.models.stages(model, **options)]


@pytest.mark.parametrize("name", FAMILIES)
def test_stages_have_the_names_of_the_modules_that_hold_them(name):
    assert names(meta_model(name)) == FAMILIES[name]


def test_a_transition_belongs_to_the_block_behind_it():
    second = tl.models.stages(meta_model("densenet121"))[2]
    assert "features.transition1.conv.weight" in second.parameters


def test_deep_networks_are_grouped_on_request():
    model = meta_model("vit_tiny_patch16_224")
    assert names(model, max_stages=5) == ["stem", "blocks.0-3", "blocks.4-8", "blocks.9-norm", "head"]
    assert names(model, max_stages=100) == names(model)
    assert names(meta_model("tl_resnet"), max_stages=4) == ["stem", "layer1-layer2", "layer3-layer4", "head"]
    assert [row["stage"] for row in tl.models.summary(model, max_stages=3)] == ["stem", "blocks.0-norm", "head", "all"]
    tl.models.unfreeze_from(model, "blocks.9-norm", max_stages=5)
    assert [s.name for s in tl.models.stages(model) if s.trainable] == [*names(model)[10:]]
    groups = tl.models.param_groups(model, 1.0, layer_decay=0.1, max_stages=5)
    assert [(g["name"], g["lr"]) for g in groups] == [("blocks.9-norm", 0.1), ("head", 1.0)]
    with pytest.raises(ValueError, match="max_stages is 2"):
        tl.models.stages(model, max_stages=2)


class Own(nn.Module):
    """A learner's own network, defined in the order of use, with a classifier that nothing recognises."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)) for _ in range(2)))
        self.scale = nn.Parameter(torch.ones(1))
        self.answer = nn.Linear(4, 2)

    def forward(self, x):
        return self.answer(self.scale * self.blocks(self.bn1(self.conv1(x))).mean((2, 3)))


PLAN = {"stem": ["conv1", "bn1"], "first": ["blocks.0"], "rest": ["blocks", "scale"], "head": ["answer"]}


def test_a_stage_plan_gives_the_stages_of_your_own_network():
    model = Own()
    with pytest.raises(ValueError, match=r"Own has no classifier under `fc`.*stage_plan"):
        tl.models.stages(model)
    model.stage_plan = PLAN
    parts = tl.models.stages(model)
    assert [part.name for part in parts] == [*PLAN]
    assert [*parts[2].parameters] == [
        "scale",
        "blocks.1.0.weight",
        "blocks.1.0.bias",
        "blocks.1.1.weight",
        "blocks.1.1.bias",
    ]
    assert {*parts[0].buffers} == {"bn1.running_mean", "bn1.running_var", "bn1.num_batches_tracked"}
    assert tl.models.head_name(model) == "answer"
    tl.models.train_mode(tl.models.freeze(model))
    assert [row["batch norm"] for row in tl.models.summary(model)] == ["eval", "none", "none", "none", ""]
    assert [g["name"] for g in tl.models.param_groups(tl.models.unfreeze_from(model, "rest"), 1.0)] == ["rest", "head"]
    assert tl.models.head(tl.models.replace_head(model, 5)).weight.shape == (5, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rest": ["blocks"]}, r"Own: no stage holds 'scale'"),
        ({"stem": ["conv1"]}, r"Own: no stage holds 'bn1\.weight'"),
        ({"first": "blocks.0"}, "give each stage a list of names"),
        ({"rest": ["blocks", "scale", "body"]}, "Own has no module or tensor 'body'"),
        ({"first": ["blocks.0", "bn1"]}, "'bn1' is in two stages"),
        ({"tail": ["answer"], "head": []}, "'answer'.*|called 'head', not 'tail'"),
    ],
)
def test_plans_that_do_not_cover_everything_once_name_it(change, message):
    model = Own()
    model.stage_plan = PLAN | change
    with pytest.raises(ValueError, match=message):
        tl.models.stages(model)


def test_a_tensor_that_is_forgotten_by_a_plan_of_a_known_network_is_named_too():
    model = meta_model("resnet18")
    model.stage_plan = {"stem": ["conv1"], "head": ["fc"]}
    with pytest.raises(ValueError, match=r"torchvision/resnet18: no stage holds 'bn1\.weight'"):
        tl.models.stages(model)


def test_your_own_small_network_needs_no_plan():
    model = nn.Module()
    model.conv1, model.bn1, model.conv2, model.fc = (
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3),
        nn.Linear(4, 2),
    )
    assert names(model) == ["stem", "conv2", "head"]
    del model.conv1, model.bn1, model.conv2
    with pytest.raises(ValueError, match="nothing below its head"):
        tl.models.stages(model)


def test_stages_of_a_compiled_model_are_those_of_the_model():
    model = tl.models.create("tl_resnet", 2, weights=None)
    compiled = torch.compile(model, backend="eager")
    assert names(compiled) == FAMILIES["tl_resnet"]
    tl.models.train_mode(tl.models.unfreeze_from(compiled, "layer4"))
    assert [row["batch norm"] for row in tl.models.summary(compiled)] == [*["eval"] * 4, "train", "none", ""]
    data = Loaders([(torch.randn(2, 3, 64, 64), torch.tensor([0, 1]))])
    before = copy.deepcopy(model.state_dict())
    tl.train.fit(compiled, data, torch.optim.SGD(tl.models.param_groups(compiled, 0.1)), epochs=2)
    moved = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"layer4", "fc"}
    assert tl.models.head(tl.models.replace_head(compiled, 3)) is model.fc


@pytest.fixture
def one_process(tmp_path):
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
@pytest.mark.skipif(sys.platform == "win32", reason="a file store's address has another form there")
def test_stages_inside_distributed_data_parallel(one_process):
    model = tl.models.unfreeze_from(tl.models.create("tl_resnet", 2, weights=None), "layer4")
    wrapped = nn.parallel.DistributedDataParallel(model)
    assert names(wrapped) == FAMILIES["tl_resnet"]
    assert tl.models.head(wrapped) is model.fc
    optimizer = torch.optim.SGD(tl.models.param_groups(wrapped, 0.1, layer_decay=0.5))
    assert [g["lr"] for g in optimizer.param_groups] == [0.05, 0.1]
    before = copy.deepcopy(model.state_dict())
    data = Loaders([(torch.randn(2, 3, 64, 64), torch.tensor([0, 1]))])
    tl.train.fit(wrapped, data, optimizer, epochs=2)
    moved = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"layer4", "fc"}


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
    tl.train.fit(model, batches, optimizer, epochs=1, frozen_bn="train")
    moved = [k for k, v in model.state_dict().items() if "running" in k and not torch.equal(v, before[k])]
    assert len(moved) == len([k for k in before if "running" in k])
    assert torch.equal(model.layer1[0].conv1.weight, before["layer1.0.conv1.weight"])


@pytest.mark.parametrize(
    "kind",
    [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, BatchNormAct2d, SyncBatchNormAct],
)
def test_every_batch_norm_is_known(kind):
    assert isinstance(kind(4), NORMS)
    assert not isinstance(nn.GroupNorm(2, 4), NORMS)


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
    with pytest.raises(ValueError, match="frozen_bn"):
        tl.models.train_mode(model, frozen_bn="off")


def test_freezing_drops_gradients_left_behind():
    model = tl.models.create("tl_resnet", 2, weights=None)
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    tl.models.freeze(model)
    assert all(p.grad is None for n, p in model.named_parameters() if not n.startswith("fc."))
    assert model.fc.weight.grad is not None


def test_summary_adds_up():
    model = tl.models.freeze(tl.models.create("resnet50", 2, weights=None))
    rows = tl.models.summary(tl.models.train_mode(model))
    assert rows[-1]["parameters"] == sum(row["parameters"] for row in rows[:-1]) == 23_512_130
    assert rows[-1]["trainable"] == 4_098
    assert {row["batch norm"] for row in rows[:-2]} == {"eval"}
    assert {row["batch norm"] for row in tl.models.summary(model.train())[:-2]} == {"train"}
    assert "23,512,130" in str(rows)
    assert "<table>" in rows._repr_html_()
