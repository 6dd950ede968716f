"""Optimizer groups: rates by the formula, what decays, and an optimizer that grows and forgets nothing."""

import copy

import pytest
import torch
from torch import nn

import tlcourse as tl
from tlcourse.models.optimizer_groups import NO_DECAY


def test_rates_fall_towards_the_stem_by_the_formula():
    model = tl.models.create("tl_resnet", 2, weights=None)
    groups = tl.models.param_groups(model, 1e-2, layer_decay=0.1)
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


def decays(model, **options):
    """Return name of parameter -> its weight decay."""
    groups = tl.models.param_groups(model, 1.0, weight_decay=0.1, **options)
    of = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    return {name: of[id(p)] for name, p in model.named_parameters() if id(p) in of}


def test_norms_and_biases_do_not_decay():
    model = tl.models.create("tl_resnet", 2, weights=None)
    groups = tl.models.param_groups(model, 1e-2, layer_decay=0.1, weight_decay=0.1)
    assert [g["name"] for g in groups[-4:]] == ["layer4", "layer4 (no decay)", "head", "head (no decay)"]
    assert [g["lr"] for g in groups[-4:]] == pytest.approx([1e-3, 1e-3, 1e-2, 1e-2])
    assert [g["weight_decay"] for g in groups[-4:]] == [0.1, 0.0, 0.1, 0.0]
    matrices = {name for name, p in model.named_parameters() if p.ndim > 1}
    assert {name for name, decay in decays(model).items() if decay} == matrices
    optimizer = torch.optim.SGD(tl.models.param_groups(model, 1.0, weight_decay=0.1))
    before = copy.deepcopy(dict(model.named_parameters()))
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()  # with no gradient, decay alone moves
    assert {name for name, p in model.named_parameters() if not torch.equal(p, before[name])} == matrices


@pytest.mark.parametrize(
    ("name", "exempt"),
    [
        ("vit_b_16", {"class_token", "encoder.pos_embedding"}),
        ("vit_tiny_patch16_224", {"cls_token", "pos_embed"}),
        ("deit_tiny_distilled_patch16_224", {"cls_token", "dist_token", "pos_embed"}),
        ("swin_t", {"features.1.0.attn.relative_position_bias_table"}),
        ("timm/swin_tiny_patch4_window7_224", {"layers.0.blocks.0.attn.relative_position_bias_table"}),
        ("coat_lite_tiny", {"cls_token1", "cls_token4"}),
    ],
)
def test_tokens_and_positions_do_not_decay(name, exempt):
    with torch.device("meta"):
        model = tl.models.create(name, 2, weights=None)
    found = decays(model)
    matrices = {name for name, p in model.named_parameters() if p.ndim > 1}
    assert exempt <= matrices - {name for name, decay in found.items() if decay}
    # Tokens and positions are few: nothing else is exempt by accident.
    spared = sum(p.numel() for n, p in model.named_parameters() if n in matrices and not found[n])
    assert spared < 0.02 * tl.models.count(model.parameters())


def test_one_output_is_a_matrix_and_decays():
    model = tl.models.create("tl_resnet", 1, weights=None)
    assert decays(model)["fc.weight"] == 0.1


def test_wrong_decays_are_refused():
    with pytest.raises(ValueError, match=r"weight_decay=-0\.1"):
        tl.models.param_groups(tl.models.create("tl_resnet", 2, weights=None), 1.0, weight_decay=-0.1)


def test_the_table_shows_groups_and_optimizers():
    model = tl.models.freeze(tl.models.create("tl_resnet", 2, weights=None))
    rows = tl.models.group_table(tl.models.param_groups(model, 1e-3, weight_decay=0.1))
    assert rows[0] == {"group": "head", "parameters": 512, "learning rate": 1e-3, "weight decay": 0.1}
    optimizer = torch.optim.AdamW(tl.models.param_groups(model, 1e-3), weight_decay=0.3)
    assert tl.models.group_table(optimizer)[0]["weight decay"] == 0.3
    assert tl.models.group_table(torch.optim.SGD(model.parameters(), lr=1.0))[0]["group"] == "group 0"
    assert tl.models.group_table(tl.models.param_groups(model, 1e-3))[0]["weight decay"] == "the optimizer's"


OPTIMIZERS = {
    "AdamW": lambda groups: torch.optim.AdamW(groups, weight_decay=0.05),
    "SGD": lambda groups: torch.optim.SGD(groups, momentum=0.9, nesterov=True),
}


def step(model, optimizer, scheduler=None, times=3):
    for _ in range(times):
        optimizer.zero_grad()
        tl.models.train_mode(model)
        model(torch.randn(4, 3, 64, 64)).square().mean().backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def state_of(optimizer, model):
    names = {p: name for name, p in model.named_parameters()}
    return {names[p]: copy.deepcopy(state) for p, state in optimizer.state.items()}


@pytest.mark.parametrize("weight_decay", [None, 0.1])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_unfreezing_keeps_the_state_of_what_trained(kind, weight_decay):
    torch.manual_seed(0)
    model = tl.models.unfreeze_from(tl.models.create("tl_resnet", 2, weights=None), "layer4")
    options = {"layer_decay": 0.5, "weight_decay": weight_decay}
    optimizer = OPTIMIZERS[kind](tl.models.param_groups(model, 1e-2, **options))
    cycle = {"max_lr": [g["lr"] for g in optimizer.param_groups], "total_steps": 3}
    step(model, optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, **cycle))  # it moves rates and momentum
    before = state_of(optimizer, model)
    assert {name.split(".")[0] for name in before} == {"layer4", "fc"}

    tl.models.unfreeze_from(model, "layer3")
    assert tl.models.extend_optimizer(optimizer, model, 1e-3, **options) is optimizer
    after = state_of(optimizer, model)
    assert after.keys() == before.keys()
    for name, state in before.items():
        assert all(
            torch.equal(after[name][key], value) if torch.is_tensor(value) else after[name][key] == value
            for key, value in state.items()
        )
    rates = {g["name"].removesuffix(NO_DECAY): g["lr"] for g in optimizer.param_groups}
    assert rates == pytest.approx({"layer3": 2.5e-4, "layer4": 5e-4, "head": 1e-3})
    default = optimizer.defaults["weight_decay"]
    assert {g["weight_decay"] for g in optimizer.param_groups} == ({default} if weight_decay is None else {0.0, 0.1})
    held = [id(p) for g in optimizer.param_groups for p in g["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)

    weights = copy.deepcopy(model.state_dict())
    fresh = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3)
    assert fresh.base_lrs == [g["lr"] for g in optimizer.param_groups]
    step(model, optimizer, fresh)
    moved = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, weights[name])}
    assert moved == {"layer3", "layer4", "fc"}
    if kind == "AdamW":
        steps = {name.split(".")[0]: int(state["step"]) for name, state in state_of(optimizer, model).items()}
        assert steps == {"layer3": 3, "layer4": 6, "fc": 6}


def test_unfreezing_keeps_decay_and_momentum_of_each_group_and_what_is_not_the_models():
    model = tl.models.freeze(tl.models.create("tl_resnet", 2, weights=None))
    scale = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD(tl.models.param_groups(model, 1e-3, weight_decay=0.1), momentum=0.5)
    optimizer.add_param_group({"params": [scale], "lr": 0.2, "weight_decay": 0.3})
    optimizer.param_groups[0]["momentum"] = 0.9
    scale.grad = torch.ones(())
    step(model, optimizer, times=1)
    optimizer.state[scale]["momentum_buffer"] = torch.ones(())
    tl.models.extend_optimizer(optimizer, tl.models.unfreeze_from(model, "layer4"), 1e-3)
    found = [(g.get("name"), g["weight_decay"], g["momentum"]) for g in optimizer.param_groups]
    assert found == [
        ("layer4", 0.1, 0.5),
        ("layer4 (no decay)", 0.0, 0.5),
        ("head", 0.1, 0.9),
        ("head (no decay)", 0.0, 0.5),
        (None, 0.3, 0.5),
    ]
    assert optimizer.param_groups[-1]["params"] == [scale]
    assert optimizer.param_groups[-1]["lr"] == 0.2
    assert scale in optimizer.state


def test_what_is_frozen_again_is_forgotten():
    model = tl.models.create("tl_resnet", 2, weights=None)
    optimizer = torch.optim.AdamW(tl.models.param_groups(model, 1e-3))
    step(model, optimizer, times=1)
    tl.models.extend_optimizer(optimizer, tl.models.freeze(model), 1e-3)
    assert {*optimizer.state} == {*model.fc.parameters()}
    assert [g["name"] for g in optimizer.param_groups] == ["head"]


def test_an_optimizer_keeps_its_groups_when_it_cannot_grow():
    model = tl.models.create("tl_resnet", 2, weights=None)
    optimizer = torch.optim.AdamW(tl.models.param_groups(model, 1e-3))
    with pytest.raises(ValueError, match="No parameter is trainable"):
        tl.models.extend_optimizer(optimizer, model.requires_grad_(False), 1e-3)
    assert len(optimizer.param_groups) == 6


def test_an_optimizer_without_a_trainable_parameter_of_the_model_is_refused():
    model, other = (tl.models.freeze(tl.models.create("tl_resnet", 2, weights=None)) for _ in range(2))
    tl.models.check_optimizer(model, torch.optim.SGD(model.parameters(), lr=0.1))  # one that trains is enough
    for parameters in (other.parameters(), model.layer1.parameters()):
        with pytest.raises(ValueError, match="no trainable parameter of this model"):
            tl.models.check_optimizer(model, torch.optim.SGD(parameters, lr=0.1))


def test_unfreeze_orders_go_from_the_head_down():
    with torch.device("meta"):
        resnet = tl.models.create("resnet50", 2, weights=None)
        vit = tl.models.create("vit_tiny_patch16_224", 2, weights=None)
    assert tl.models.unfreeze_order(resnet, 4) == ["head", "layer4", "layer3", "stem"]
    assert tl.models.unfreeze_order(resnet, 2) == ["head", "stem"]
    plan = tl.models.unfreeze_order(vit, 3, max_stages=5)
    assert plan == ["head", "blocks.9-norm", "stem"]
    for stage, trainable in zip(plan, (1, 5, 15), strict=True):
        tl.models.unfreeze_from(vit, stage, max_stages=5)
        assert sum(part.trainable > 0 for part in tl.models.stages(vit)) == trainable
    for phases in (1, 7):
        with pytest.raises(ValueError, match=f"phases={phases}: give 2 to 6"):
            tl.models.unfreeze_order(resnet, phases)


def test_groups_of_your_own_network():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    model.stage_plan = {"body": ["0", "1"], "head": ["2"]}
    groups = tl.models.param_groups(model, 1.0, layer_decay=0.5, weight_decay=0.1)
    assert [(g["name"], g["lr"], len(g["params"])) for g in groups] == [
        ("body", 0.5, 1),
        ("body (no decay)", 0.5, 3),
        ("head", 1.0, 1),
        ("head (no decay)", 1.0, 1),
    ]


def test_a_replaced_head_leaves_the_optimizer_and_a_loss_stays_at_its_base_rate():
    model, scale = tl.models.freeze(tl.models.create("tl_resnet", 2)), torch.nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD(tl.models.param_groups(model, 0.1))
    optimizer.add_param_group({"params": [scale], "lr": 0.5})
    for _ in torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=1).base_lrs[:1]:
        optimizer.param_groups[-1]["lr"] = 0.0  # as a schedule may end
    tl.models.replace_head(model, 3)
    tl.models.unfreeze_from(model, "layer4")
    tl.models.extend_optimizer(optimizer, model, 0.1)
    own = {id(p) for p in model.parameters()} | {id(scale)}
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} <= own
    assert optimizer.param_groups[-1]["lr"] == 0.5
