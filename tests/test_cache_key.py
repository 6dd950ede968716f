"""The key of cached features: the same for equal set-ups, in every process, and another after each relevant change."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import v2

import tlcourse as tl
from tlcourse.data import ImageSet
from tlcourse.features import extract
from tlcourse.features.cache_key import cache_key


def images(transform=None, n=4):
    arrays = [np.full((8, 8, 3), 10 * i, dtype=np.uint8) for i in range(n)]
    return ImageSet(arrays, [i % 2 for i in range(n)], ["a", "b"], transform)


def key(transform=None, module=None):
    return cache_key(module or nn.Identity(), images(transform))


def run(code, **names):
    """Execute code as a notebook does: there is no file with its source."""
    space = {"__name__": "__main__", "nn": nn, "torch": torch, "v2": v2, **names}
    exec(code, space)
    return space["made"]


class Shift:
    """A transform of one's own, without a `repr`."""

    def __init__(self, by):
        self.by = by

    def __call__(self, image):
        return v2.functional.to_dtype(v2.functional.to_image(image), torch.float32) + self.by


class Slotted:
    """A transform that keeps its settings outside of `vars`."""

    __slots__ = ("by",)

    def __init__(self, by):
        self.by = by


@dataclass
class Settings:
    """Some values."""

    size: int
    names: tuple


class Corner(Enum):
    """Some choice."""

    LEFT = 1
    RIGHT = 2


def enclosing(by):
    return lambda image: image + by


def scaled(image, by=1):
    return image * by


CELLS = {  # what stands in a cell -> the same cell, edited
    "lambda": ("made = v2.Lambda(lambda x: x + 1)", "made = v2.Lambda(lambda x: x - 1)"),
    "constant": ("made = v2.Lambda(lambda x: x + 1)", "made = v2.Lambda(lambda x: x + 2)"),
    "name": ("made = lambda x: x.min()", "made = lambda x: x.max()"),
    "default": ("made = lambda x, y=1: x + y", "made = lambda x, y=2: x + y"),
    "keyword": ("def made(x, *, y=1): return x + y", "def made(x, *, y=2): return x + y"),
    "global": ("y = 1\nmade = lambda x: x + y", "y = 2\nmade = lambda x: x + y"),
    "called": ("def f(x): return x\nmade = lambda x: f(x)", "def f(x): return -x\nmade = lambda x: f(x)"),
    "inside": ("y = 1\nmade = lambda x: [x + y for _ in x]", "y = 2\nmade = lambda x: [x + y for _ in x]"),
    "method": (
        "class A:\n  def __call__(self, x): return x\nmade = A()",
        "class A:\n  def __call__(self, x): return -x\nmade = A()",
    ),
    "property": (
        "class A:\n  @property\n  def y(self): return 1\nmade = A()",
        "class A:\n  @property\n  def y(self): return 2\nmade = A()",
    ),
    "static": (
        "class A:\n  @staticmethod\n  def f(x): return 1\nmade = A.f",
        "class A:\n  @staticmethod\n  def f(x): return 2\nmade = A.f",
    ),
    "class attribute": ("class A:\n  y = 1\nmade = A()", "class A:\n  y = 2\nmade = A()"),
    "base": (
        "class B:\n  def f(self): return 1\nclass A(B): pass\nmade = A()",
        "class B:\n  def f(self): return 2\nclass A(B): pass\nmade = A()",
    ),
    "decorated": (
        "@torch.no_grad()\ndef made(x): return x + 1",
        "@torch.no_grad()\ndef made(x): return x + 2",
    ),
    "cached": (
        "from functools import cache\n@cache\ndef made(x): return x + 1",
        "from functools import cache\n@cache\ndef made(x): return x + 2",
    ),
    "recursive": (
        "def made(x): return made(x - 1) if x > 0 else 1",
        "def made(x): return made(x - 1) if x > 0 else 2",
    ),
    "protected lines": (
        "def made(x):\n  try: f(x)\n  except ValueError: pass\n  else: g(x)",
        "def made(x):\n  try: f(x);g(x)\n  except ValueError: pass",
    ),
    "handler": (
        "def made(x):\n  try: return x\n  except ValueError: return 1",
        "def made(x):\n  try: return x\n  except TypeError: return 1",
    ),
}


@pytest.mark.parametrize("name", CELLS)
def test_edited_code_has_another_key(name):
    before, after = CELLS[name]
    assert key(run(before)) == key(run(f"# moved down\n\n{before}")) != key(run(after))
    assert key(run(before)) is not None


PAIRS = {
    "attribute": (Shift(1), Shift(2)),
    "slot": (Slotted(1), Slotted(2)),
    "closure": (enclosing(1), enclosing(2)),
    "partial": (partial(scaled, by=1), partial(scaled, by=2)),
    "bound method": (Shift(1).__call__, Shift(2).__call__),
    "library": (v2.Compose([v2.Resize(8), v2.CenterCrop(4)]), v2.Compose([v2.Resize(8), v2.CenterCrop(6)])),
    "order": (v2.Compose([v2.Resize(8), v2.CenterCrop(4)]), v2.Compose([v2.CenterCrop(4), v2.Resize(8)])),
    "inside": (v2.Compose([v2.Resize(8), Shift(1)]), v2.Compose([v2.Resize(8), Shift(2)])),
    "tensor": (Shift(torch.tensor([1.0, 2.0])), Shift(torch.tensor([1.0, 3.0]))),
    "shape": (Shift(torch.zeros(2, 3)), Shift(torch.zeros(3, 2))),
    "array": (Shift(np.array([1, 2])), Shift(np.array([1, 3]))),
    "dtype": (Shift(torch.float16), Shift(torch.bfloat16)),
    "dataclass": (Shift(Settings(3, ("a",))), Shift(Settings(3, ("b",)))),
    "enum": (Shift(Corner.LEFT), Shift(Corner.RIGHT)),
    "set": (Shift({"a", "b"}), Shift({"a", "c"})),
    "dictionary": (Shift({"a": 1}), Shift({"a": 2})),
    "number's type": (Shift(1), Shift(1.0)),
    "path": (Shift(Path("a")), Shift(Path("b"))),
    "a library's function": (Shift(torch.relu), Shift(torch.sigmoid)),
    "type": (Shift(nn.ReLU), Shift(nn.GELU)),
    "nothing": (None, Shift(1)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_other_settings_have_another_key(name):
    first, second = PAIRS[name]
    assert key(first) is not None
    assert key(first) != key(second) is not None


class Net(nn.Module):
    """A body and a head."""

    def __init__(self, slope=0.0):
        super().__init__()
        self.body, self.fc, self.slope = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), slope
        for parameter in self.parameters():
            nn.init.constant_(parameter, 0.5)

    def forward(self, x):
        return self.fc(nn.functional.leaky_relu(self.body(x), self.slope).mean((2, 3)))


def changes():
    yield "weight", lambda net: net.body.weight.data.add_(1)
    yield "stride", lambda net: setattr(net.body, "stride", (2, 2))
    yield "attribute", lambda net: setattr(net, "slope", 0.1)
    yield "forward of the instance", lambda net: setattr(net, "forward", lambda x: net.fc(net.body(x).mean((2, 3))))
    yield "hook", lambda net: net.body.register_forward_hook(lambda *given: given[-1] + 1)
    yield "hook before", lambda net: net.body.register_forward_pre_hook(lambda _, inputs: (inputs[0] + 1,))
    yield "buffer", lambda net: net.register_buffer("more", torch.ones(1))
    yield "layer", lambda net: setattr(net, "act", nn.ReLU())


@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in changes()])
def test_a_changed_network_has_another_key(change):
    net = Net()
    before = key(module=net)
    change(net)
    assert before != key(module=net) is not None


def test_the_head_the_mode_and_labels_do_not_count():
    net, data = Net(), images()
    before = cache_key(net, data, without=[net.fc])
    net.fc.weight.data.add_(1)
    net.train().requires_grad_(False)
    assert cache_key(nn.DataParallel(net), data.relabelled(torch.ones_like(data.labels)), without=[net.fc]) == before
    assert cache_key(net, data) != before != cache_key(net, data, 1, without=[net.fc])


@pytest.mark.parametrize("module", ["builtins", "torch.nn", "pytest"])
def test_a_class_of_ones_own_counts_wherever_it_says_it_is_from(module):
    """Code that is executed without a name gives classes of `builtins`; a library's are those that it really has."""
    cell = "class A:\n  __module__ = module\n  def f(self): return {}\nmade = A()"
    before, after = (key(run(cell.format(value), module=module)) for value in (1, 2))
    assert None is not before != after


def test_functions_of_ones_own_module_count(monkeypatch):
    """By the members that the code names."""
    own = ModuleType("own_helpers")
    monkeypatch.setitem(sys.modules, "own_helpers", own)
    own.helper, own.other = (lambda x: x + 1), open(os.devnull)  # noqa: SIM115
    with own.other:
        made = run("made = lambda x: own.helper(x)", own=own)
        before = key(made)
        own.helper = lambda x: x + 2
        assert before != key(made) is not None


def test_what_cannot_be_compared_has_no_key(capsys):
    with open(os.devnull) as file:
        assert key(Shift(file)) is None
        assert key(Shift(file)) is None
    out = capsys.readouterr().out
    assert out.count("_io.TextIOWrapper") == out.count("\n") == 1
    assert key(run("def made(x):\n  import own_helpers\n  return own_helpers.helper(x)")) is None
    assert "imports own_helpers" in capsys.readouterr().out
    assert key(run("def made(x):\n  import math\n  return math.sin(x)")) is not None
    assert key(Shift(i for i in range(3))) is None
    assert cache_key(nn.Identity(), torch.utils.data.TensorDataset(torch.zeros(2))) is None


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import torch
import test_cache_key as t
from torchvision.transforms import v2
import tlcourse as tl

torch.manual_seed(0)
model = tl.models.freeze(tl.models.create("tl_resnet", 2))
cut = tl.features.split_frozen(model, torch.randn(2, 3, 64, 64))
steps = [*(first for first, _ in t.PAIRS.values()), *(t.run(before) for before, _ in t.CELLS.values()), object()]
print(t.cache_key(model, t.images(steps)), t.cache_key(cut.frozen_part, t.images(steps)))
"""


def test_equal_set_ups_have_the_same_key_in_other_processes():
    """Neither addresses nor the order of sets, which differ from process to process, get into it."""
    answers = set()
    for seed in "12":
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", SCRIPT.format(tests=str(Path(__file__).parent))]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        answers.add(done.stdout)
    assert len(answers) == 1
    assert "None" not in answers.pop()


def test_a_key_takes_little_time():
    model = tl.models.create("tl_resnet", 2)
    data = images(model.preprocessing.evaluation())
    times = []
    for _ in range(5):
        start = time.perf_counter()
        cache_key(model, data)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.05


CELL = """
class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.fc = nn.Conv2d(3, 4, 8), nn.Linear(4, 2)
    def forward(self, x):
        return self.fc(self.body(x).mean((2, 3)) + {shift})
made = Network()
"""


def test_extract_after_an_edit_gives_what_the_edited_code_computes(tmp_path):
    """A cell is run again with another forward pass, transform or lambda of the same name and the same weights."""
    first, second = (run(CELL.format(shift=shift)) for shift in (0, 1))
    second.load_state_dict(first.state_dict())
    added = [
        v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32), run(f"made = v2.Lambda(lambda x: x + {by})")])
        for by in (0, 1)
    ]
    for model, transform in [
        (first, Shift(0)),
        (second, Shift(0)),
        (first, Shift(1)),
        (first, added[0]),
        (first, added[1]),
    ]:
        cached = extract(model, images(transform), cache=tmp_path)
        torch.testing.assert_close(cached.x, extract(model, images(transform), cache=False).x)
    assert len(list(tmp_path.iterdir())) == 5
