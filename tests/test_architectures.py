"""Every classifier of torchvision, and a sample of timm's: head, stages, their order, freezing and groups."""

import architectures
import pytest
import torch
import torchvision
from torch import nn

import tlcourse as tl

TORCHVISION = torchvision.models.list_models(module=torchvision.models)
SAMPLE = architectures.sample(105)


def test_the_sample_is_spread_over_all_families():
    every = {architectures.family(name) for name in architectures.every_name()}
    assert {architectures.family(name) for name in SAMPLE} == every - {"torchvision"}
    assert len(SAMPLE) == len(set(SAMPLE)) >= 60


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name):
    outcome = architectures.examine(f"torchvision/{name}")
    assert (outcome.problems, outcome.refused) == ((), "")


@pytest.mark.parametrize("name", SAMPLE)
def test_timm(name):
    outcome = architectures.examine(name)
    assert outcome.problems == ()
    assert not outcome.refused or "encoder without a classifier" in outcome.refused


class Backwards(nn.Module):
    """A network whose modules are defined in another order than they are used in."""

    def __init__(self):
        super().__init__()
        self.late, self.middle, self.early, self.fc = (nn.Linear(3, 3) for _ in range(4))
        self.register_buffer("forgotten", torch.zeros(1))
        self.preprocessing = tl.preprocessing.Preprocessing(4, 4)

    def forward(self, x):
        return self.fc(self.late(self.middle(self.early(x.mean((2, 3))))))


def test_the_examination_can_fail():
    with torch.device("meta"):
        model = Backwards()
        model.fc = nn.Linear(3, architectures.CLASSES)
    assert list(architectures._order(model)) == ["early is used before middle"]
    model.stage_plan = {"stem": ["early"], "middle": ["middle"], "late": ["late", "forgotten"], "head": ["fc"]}
    assert [*architectures._order(model), *architectures._head(model), *architectures._partition(model)] == []
    model.other = nn.Linear(3, architectures.CLASSES)
    assert "the layers with 7 outputs are" in next(architectures._head(model))
