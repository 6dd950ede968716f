"""The doctor for scripts, notebooks, folders and checkpoints: what it must find, what it must not, how it answers."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import tlcourse as tl
from tlcourse import cli, doctor

LOOP = """
def fit(model, train_loader, optimizer, criterion, epochs):
    for epoch in range(epochs):
        model.train()
        for images, labels in train_loader:
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
"""
STEPPED = """
def fit(model, train_loader, optimizer, criterion, scheduler, epochs):
    for epoch in range(epochs):
        for images, labels in train_loader:
            optimizer.zero_grad()
            criterion(model(images), labels).backward()
            optimizer.step()
            {batch}
        {epoch}
"""


def by_batch(made, step="scheduler.step()"):
    return f"scheduler = {made}\n" + STEPPED.format(batch=step, epoch="pass")


def by_epoch(made, step="scheduler.step()"):
    return f"scheduler = {made}\n" + STEPPED.format(batch="pass", epoch=step)


FREEZE = "model = models.resnet18(weights='DEFAULT')\nfor p in model.parameters():\n    p.requires_grad = False\nmodel.fc = nn.Linear(512, 2)\n"
EVALUATE = """
@torch.no_grad()
def evaluate(model, loader):
    {mode}
    right = 0
    for images, labels in loader:
        right += (model(images).argmax(1) == labels).sum().item()
    return right
"""
NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 2)
    def forward(self, x):
        return {output}
criterion = nn.CrossEntropyLoss()
"""
AUGMENTED = "T.Compose([T.RandomResizedCrop(224), T.ToTensor(), T.Normalize(mean, std)])"
PLAIN = "T.Compose([T.Resize(256), T.CenterCrop(224), T.ToTensor(), T.Normalize(mean, std)])"
TIMED = "device = 'cuda'\ndef latency(model, x):\n    start = time.time()\n    for _ in range(9):\n        model(x)\n{wait}    return time.time() - start\n"

# finding -> [(severity, a script with it)], [scripts without it]
RULES: dict[str, tuple[list[tuple[str, str]], list[str]]] = {
    "softmax-before-cross-entropy": (
        [
            ("wrong", NET.format(output="F.softmax(self.fc(x), dim=1)")),
            ("wrong", NET.format(output="self.fc(x)").replace("self.fc = ", "self.softmax = nn.Softmax(1); self.fc = ")
             .replace("return self.fc(x)", "return self.softmax(self.fc(x))")),
            ("wrong", "loss = F.cross_entropy(torch.softmax(model(x), 1), y)"),
            ("wrong", "criterion = nn.CrossEntropyLoss()\nout = model(x).softmax(1)\nloss = criterion(out, y)"),
            ("wrong", "criterion = nn.CrossEntropyLoss()\nmodel.fc = nn.Sequential(nn.Linear(8, 2), nn.Softmax(dim=1))"),
            ("wrong", "loss = nn.CrossEntropyLoss()(F.softmax(model(x), 1), y)"),
        ],
        [
            NET.format(output="self.fc(x)") + "\nprobabilities = F.softmax(model(x), 1)",
            "loss = F.nll_loss(F.log_softmax(model(x), 1), y)",
            "model.fc = nn.Sequential(nn.Linear(8, 2), nn.Softmax(dim=1))\nloss = my_loss(model(x), y)",
            NET.format(output="self.fc(F.softmax(self.weights, 0) * x)"),
        ],
    ),
    "foreign-parameters": (
        [("wrong", "optimizer = optim.Adam(model.parameters())\nmodel.fc = nn.Linear(512, 2)"),
         ("wrong", "opt = torch.optim.SGD(model.classifier.parameters(), lr=1)\nmodel.classifier[1] = nn.Linear(9, 2)")],
        ["model.fc = nn.Linear(512, 2)\noptimizer = optim.Adam(model.parameters())",
         "optimizer = Adam(model.parameters())\nmodel.fc = nn.Linear(512, 2)\noptimizer = Adam(model.parameters())",
         "optimizer = Adam(teacher.parameters())\nmodel.fc = nn.Linear(512, 2)"],
    ),
    "head-frozen": (
        [("wrong", "model.fc = nn.Linear(512, 2)\nfor p in model.parameters():\n    p.requires_grad = False\n"),
         ("wrong", "model.head = nn.Linear(8, 2)\nfor n, p in model.named_parameters():\n    p.requires_grad_(False)\n")],
        [FREEZE,
         "model.fc = nn.Linear(8, 2)\nfor p in model.parameters():\n    p.requires_grad = False\nmodel.fc.requires_grad_(True)",
         "model.fc = nn.Linear(8, 2)\nfor n, p in model.named_parameters():\n    if 'fc' not in n:\n        p.requires_grad = False"],
    ),
    "several-schedulers": (
        [("suspicious", "a = StepLR(optimizer, 3)\nb = ExponentialLR(optimizer, 0.9)"),
         ("wrong", "a = CosineAnnealingLR(optimizer, 9)\nb = OneCycleLR(optimizer, 1e-3, total_steps=99)")],
        ["a = StepLR(optimizer, 3)\noptimizer = SGD(model.parameters(), lr=1)\nb = OneCycleLR(optimizer, 1, total_steps=9)",
         "a = LinearLR(opt)\nb = CosineAnnealingLR(opt, 9)\nc = SequentialLR(opt, [a, b], [3])",
         "if kind == 'step':\n    s = StepLR(opt, 3)\nelse:\n    s = CosineAnnealingLR(opt, 9)",
         "a = StepLR(first, 3)\nb = StepLR(second, 3)"],
    ),
    "moments-forgotten": (
        [("note", "a = Adam(model.fc.parameters())\nmodel.layer4.requires_grad_(True)\n"
          "b = Adam([{'params': model.layer4.parameters()}, {'params': model.fc.parameters()}])")],
        ["a = Adam(model.fc.parameters())\nmodel.layer4.requires_grad_(True)\na.add_param_group({'params': model.layer4.parameters()})",
         "a = Adam(first.fc.parameters())\nfirst.layer4.requires_grad_(True)\nb = Adam(second.fc.parameters())"],
    ),
    "deprecated": (
        [("suspicious", "model = models.resnet50(pretrained=True)"),
         ("wrong", "s = ReduceLROnPlateau(optimizer, verbose=True)"),
         ("note", "with torch.cuda.amp.autocast():\n    pass")],
        ["model = timm.create_model('resnet50', pretrained=True)\ns = ReduceLROnPlateau(optimizer, patience=3)",
         "model = models.resnet50(weights='DEFAULT')"],
    ),
    "pickle": (
        [("note", "torch.save(model, 'model.pth')"), ("suspicious", "torch.load('model.pth', weights_only=False)")],
        ["torch.save(model.state_dict(), 'model.pth')\nstate = torch.load('model.pth')"],
    ),
    "tuple-formatted": (
        [("wrong", "print(f'{7,102,466:,} parameters')")],
        ["print(f'{7_102_466:,} parameters {1, 2}')"],
    ),
    "clock": ([("suspicious", TIMED.format(wait=""))], [TIMED.format(wait="    torch.cuda.synchronize()\n")]),
    "augmented-evaluation": (
        [("wrong", f"val_transform = {AUGMENTED}"),
         ("wrong", f"transforms = {{'train': {AUGMENTED}, 'val': {AUGMENTED}}}"),
         ("wrong", f"tf = {AUGMENTED}\nval_set = ImageFolder('val', transform=tf)"),
         ("wrong", f"tf = {AUGMENTED}\nfull = ImageFolder('all', transform=tf)\ntrain, val = random_split(full, [80, 20])")],
        [f"train_transform = {AUGMENTED}\nval_transform = {PLAIN}\ntest_set = ImageFolder('test', transform=val_transform)",
         f"transforms = {{'train': {AUGMENTED}, 'val': {PLAIN}}}",
         f"tf = {PLAIN}\nfull = ImageFolder('all', transform=tf)\ntrain, val = random_split(full, [80, 20])"],
    ),
    "not-normalised": (
        [("wrong", "model = models.resnet18(weights='DEFAULT')\ntf = T.Compose([T.Resize(224), T.ToTensor()])"),
         ("suspicious", f"model = models.resnet18(weights=W.V1)\ntrain_tf = {AUGMENTED}\ntest_tf = T.Compose([T.ToTensor()])"),
         ("suspicious", "model = models.resnet18(pretrained=True)\ntf = T.Compose([T.ToTensor(), T.Normalize([0.5] * 3, [0.5] * 3)])"
          .replace("[0.5] * 3", "(0.5, 0.5, 0.5)"))],
        [f"model = models.resnet18(weights='DEFAULT')\ntf = {PLAIN.replace('mean, std', '[0.485, 0.456, 0.406], std')}",
         "model = models.resnet18(weights=None)\ntf = T.Compose([T.Resize(224), T.ToTensor()])",
         "weights = W.DEFAULT\nmodel = models.resnet18(weights=weights)\ntf = weights.transforms()"],
    ),
    "transform-order": (
        [("wrong", "tf = T.Compose([T.RandomErasing(), T.ToTensor()])")],
        ["tf = T.Compose([T.ToTensor(), T.Normalize(mean, std), T.RandomErasing()])"],
    ),
    "rotation": ([("wrong", "T.RandomRotation([0, 90, 180, 270])")], ["T.RandomRotation(15)\nT.RandomRotation((-15, 15))"]),
    "unshuffled-training": (
        [("wrong", "train_set = ImageFolder('train')\ntrain_loader = DataLoader(train_set, batch_size=32)")],
        ["train_set = ImageFolder('train')\ntrain_loader = DataLoader(train_set, batch_size=32, shuffle=True)",
         "train_set = ImageFolder('train')\ntrain_loader = DataLoader(train_set, 32, sampler=sampler)",
         "val_set = ImageFolder('val')\nval_loader = DataLoader(val_set, batch_size=32)"],
    ),
    "frozen-statistics-move": (
        [("wrong", FREEZE + LOOP),
         ("suspicious", FREEZE.replace("models.resnet18(weights='DEFAULT')", "Mine()") + LOOP),
         ("suspicious", FREEZE + LOOP + "for p in model.parameters():\n    p.requires_grad = True\n")],
        [LOOP,
         FREEZE.replace("resnet18", "vit_b_16") + LOOP,
         FREEZE + LOOP.replace("model.train()", "tl.models.train_mode(model)"),
         FREEZE + LOOP.replace("model.train()", "model.train()\n        model.layer1.eval()"),
         FREEZE + LOOP.replace("model.train()", "model.train()\n        for m in norms:\n            m.eval()")],
    ),
    "training-mode": (
        [("wrong", EVALUATE.format(mode="pass")),
         ("wrong", EVALUATE.format(mode="model.train()") + "\nmodel.eval()"),
         ("suspicious", EVALUATE.format(mode="pass") + "\nmodel.eval()\nevaluate(model, val_loader)")],
        [EVALUATE.format(mode="model.eval()"), LOOP],
    ),
    "no-zero-grad": (
        [("wrong", LOOP.replace("optimizer.zero_grad()", "pass"))],
        [LOOP, LOOP.replace("optimizer.zero_grad()", "for p in model.parameters():\n                p.grad = None"),
         "loss.backward()\noptimizer.step()"],
    ),
    "no-step": (
        [("wrong", LOOP.replace("optimizer.step()", "pass"))],
        [LOOP, LOOP.replace("optimizer.step()", "scaler.step(optimizer)")],
    ),
    "zeroed-before-step": (
        [("wrong", LOOP.replace("optimizer.zero_grad()", "pass").replace("loss.backward()", "loss.backward(); optimizer.zero_grad()"))],
        [LOOP, LOOP.replace("optimizer.zero_grad()", "pass").replace("optimizer.step()", "optimizer.step(); optimizer.zero_grad()")],
    ),
    "graph-kept": (
        [("suspicious", LOOP.replace("optimizer.step()", "total += loss * len(labels)"))],
        [LOOP.replace("optimizer.step()", "total += loss.item() * len(labels)"),
         LOOP.replace("optimizer.step()", "total += loss.detach()")],
    ),
    "scheduler-interval": (
        [("wrong", by_epoch("OneCycleLR(optimizer, 1e-3, epochs=9, steps_per_epoch=len(train_loader))")),
         ("wrong", by_epoch("OneCycleLR(optimizer, 1e-3, total_steps=9 * len(train_loader))")),
         ("wrong", by_batch("CosineAnnealingLR(optimizer, T_max=epochs)")),
         ("suspicious", by_batch("CosineAnnealingLR(optimizer, 50)")),
         ("wrong", by_epoch("CosineAnnealingLR(optimizer, T_max=epochs * len(train_loader))")),
         ("wrong", by_batch("StepLR(optimizer, step_size=7)")),
         ("wrong", by_batch("MultiStepLR(optimizer, [30, 60])")),
         ("wrong", by_batch("ExponentialLR(optimizer, gamma=0.95)")),
         ("suspicious", by_batch("ReduceLROnPlateau(optimizer)", "scheduler.step(loss)"))],
        [by_batch("OneCycleLR(optimizer, 1e-3, epochs=9, steps_per_epoch=len(train_loader))"),
         by_batch("CosineAnnealingLR(optimizer, T_max=epochs * len(train_loader))"),
         by_epoch("CosineAnnealingLR(optimizer, T_max=epochs)"),
         by_epoch("OneCycleLR(optimizer, 1e-3, total_steps=epochs)"),
         by_epoch("StepLR(optimizer, step_size=7)"),
         by_batch("StepLR(optimizer, step_size=7 * len(train_loader))"),
         by_batch("ExponentialLR(optimizer, gamma=0.9995)"),
         by_epoch("ReduceLROnPlateau(optimizer)", "scheduler.step(val_loss)"),
         by_batch("StepLR(optimizer, 7)", "if isinstance(scheduler, OneCycleLR):\n                scheduler.step()")],
    ),
    "plateau-constant": (
        [("wrong", by_epoch("ReduceLROnPlateau(optimizer)")),
         ("wrong", by_epoch("ReduceLROnPlateau(optimizer, 'max')", "acc = 0.0; scheduler.step(acc)")),
         ("wrong", by_epoch("ReduceLROnPlateau(optimizer, 'max')", "scheduler.step(0.5)"))],
        [by_epoch("ReduceLROnPlateau(optimizer)", "val_loss = evaluate(model); scheduler.step(val_loss)"),
         by_epoch("ReduceLROnPlateau(optimizer, 'max')", "acc = 0.0; acc += 1 / 3; scheduler.step(acc)"),
         by_epoch("StepLR(optimizer, 7)")],
    ),
    "hidden-state": (
        [("note", LOOP.replace("optimizer, criterion, epochs", "epochs"))],
        [LOOP],
    ),
    "syntax": (
        [("wrong", "print(f'{25,557,032:,}')"), ("wrong", "def f(:\n    pass")],
        [LOOP],
    ),
}  # fmt: skip

BAD = [pytest.param(n, s, code, id=f"{n}-{i}") for n, (bad, _) in RULES.items() for i, (s, code) in enumerate(bad)]
GOOD = [pytest.param(n, code, id=f"{n}-{i}") for n, (_, good) in RULES.items() for i, code in enumerate(good)]


def look(tmp_path, code):
    file = tmp_path / "script.py"
    file.write_text(code, encoding="utf-8")
    return doctor.diagnose(file)


@pytest.mark.parametrize(("name", "severity", "code"), BAD)
def test_a_mistake_in_a_script_is_found(tmp_path, name, severity, code):
    report = look(tmp_path, code)
    assert [f.severity for f in report.named(name)][:1] == [severity], report
    assert not report.named("check-failed"), report
    (line,) = re.fullmatch(r"line (\d+)", report.named(name)[0].where).groups()
    assert 1 <= int(line) <= len(code.splitlines())


@pytest.mark.parametrize(("name", "code"), GOOD)
def test_a_right_script_is_left_alone(tmp_path, name, code):
    report = look(tmp_path, code)
    assert not report.named(name), report
    assert not report.named("check-failed"), report


def test_every_rule_has_both_tests():
    names = set()
    for path in [*Path(doctor.__file__).parent.glob("rules_*.py")]:
        names |= set(
            re.findall(r"\b(?:wrong|suspicious|note|finding)\(\s*\"([a-z-]+)\"", path.read_text(encoding="utf-8"))
        )
    assert names | {"syntax"} == set(RULES)
    assert all(bad and good for bad, good in RULES.values())


def test_the_package_itself_and_its_lessons_are_right():
    root = Path(__file__).resolve().parents[1]
    files = [
        *(root / "sources" / "lessons").glob("*.py"),
        root / "tlcourse" / "train" / "loop.py",
        root / "tools" / "build.py",
    ]
    wrong = [f"{file.name} {f}" for file in files for f in doctor.diagnose(file).findings if f.severity == "wrong"]
    assert wrong == []


def test_a_notebook_is_read_cell_by_cell(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": "# Title"},
        {"cell_type": "code", "source": ["%matplotlib inline\n", "!pip install torch\n", "import torch"]},
        {"cell_type": "code", "source": "%%bash\nls model.train()"},
        {"cell_type": "code", "source": "optimizer = optim.Adam(model.parameters())"},
        {"cell_type": "code", "source": "x = 1\nmodel.fc = nn.Linear(512, 2)"},
    ]
    file = tmp_path / "lesson.ipynb"
    file.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    report = doctor.diagnose(file)
    assert [finding.where for finding in report.findings] == ["cell 5, line 2"], report
    assert "cell 4, line 1" in report.findings[0].evidence


def test_one_broken_line_does_not_hide_the_rest(tmp_path):
    report = look(
        tmp_path, "print(f'{25,557,032:,}')\noptimizer = optim.Adam(model.parameters())\nmodel.fc = nn.Linear(5, 2)"
    )
    assert [finding.check for finding in report.findings] == ["syntax", "foreign-parameters"]
    assert [finding.where for finding in report.findings] == ["line 1", "line 3"]
    assert "without commas" in report.findings[0].advice


def test_a_rule_that_stumbles_is_told(tmp_path, monkeypatch):
    def stumbles(script):
        raise KeyError("odd code")

    monkeypatch.setattr("tlcourse.doctor.files.RULES", (stumbles,))
    assert look(tmp_path, "x = 1").named("check-failed")


# Folders


def write(folder, part, name, count, *, size=48, start=0):
    place = folder / part / name
    place.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        key = sum(map(ord, part + name)) * 1000 + i
        noise = np.random.default_rng(key).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((size, size)).save(place / f"{i}.png")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for part, count in (("train", 12), ("val", 10)):
        for name in ("cats", "dogs"):
            write(folder, part, name, count)
    return folder


def test_a_sound_folder(photos):
    report = doctor.diagnose(photos)
    assert report.findings == [], report
    assert [tuple(row.values()) for row in report.table][:2] == [("train", "cats", 12), ("train", "dogs", 12)]


def test_damaged_files(photos):
    (photos / "train" / "cats" / "0.png").write_bytes(b"not an image")
    (finding,) = doctor.diagnose(photos).named("unreadable")
    assert finding.severity == "wrong"
    assert "1 of 44: train/cats/0.png (not an image)" in finding.evidence


def test_copies_across_parts_and_classes(photos):
    shutil.copy(photos / "train/cats/3.png", photos / "val/dogs/copy.png")
    with Image.open(photos / "train/dogs/4.png") as image:
        image.resize((96, 96)).convert("RGB").save(photos / "val/dogs/again.jpg", quality=80)
    report = doctor.diagnose(photos)
    (across,) = report.named("same-picture")
    assert across.severity == "wrong"
    assert "1 exact and 1 near copies: train/cats/3.png = val/dogs/copy.png" in across.evidence
    (labels,) = report.named("two-labels")
    assert "cats and dogs" in labels.what
    assert not report.named("copies")


def test_copies_within_a_part(photos):
    shutil.copy(photos / "train/cats/3.png", photos / "train/cats/copy.png")
    report = doctor.diagnose(photos)
    assert [f.severity for f in report.named("copies")] == ["note"]
    assert report
    shutil.rmtree(photos / "val")
    (photos / "train").rename(photos / "all")
    assert [f.severity for f in doctor.diagnose(photos / "all").named("copies")] == ["suspicious"]


def test_classes_of_different_size(photos):
    write(photos, "train", "cats", 120, start=100)
    report = doctor.diagnose(photos)
    assert "train: 132 cats, 12 dogs, 144 in all" in report.named("imbalance")[0].evidence
    assert not report.named("few-images")


def test_few_tiny_and_long_images(photos):
    for file in (photos / "val" / "cats").glob("[3-9].png"):
        file.unlink()
    write(photos, "val", "dogs", 1, size=16)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 300, 3), dtype=np.uint8)).save(
        photos / "val/dogs/9.png"
    )
    report = doctor.diagnose(photos)
    assert "cats (3)" in report.named("few-images")[0].evidence
    assert [f.severity for f in report.named("tiny-images")] == ["suspicious"]
    assert "val/dogs/9.png (300 x 40)" in report.named("long-images")[0].evidence


def test_a_folder_that_is_laid_out_wrongly(photos):
    shutil.rmtree(photos / "val" / "dogs")
    (finding,) = doctor.diagnose(photos).findings
    assert (finding.severity, finding.check) == ("wrong", "layout")
    assert "val lacks dogs" in finding.evidence


# Checkpoints


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint of a small network that has run in training mode."""
    model = tl.models.create("test_resnet", 2, weights=None)
    with torch.no_grad():
        model.train()(torch.randn(4, 3, 64, 64))
    return tl.predict.save_checkpoint(
        tmp_path_factory.mktemp("checkpoint") / "model.safetensors", model, ["a", "b"]
    ), model


def saved(tmp_path, model, change, suffix=".pth"):
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    change(state)
    file = tmp_path / f"changed{suffix}"
    if suffix == ".pth":
        torch.save(state, file)
    else:
        save_file(state, file)
    return doctor.diagnose(file)


def test_a_sound_checkpoint(trained):
    report = doctor.diagnose(trained[0])
    assert report.findings == [], report
    assert report.table[0]["tensors"] == len(trained[1].state_dict())


def test_weights_alone_are_noted(trained, tmp_path):
    report = saved(tmp_path, trained[1], lambda state: None)
    assert [f.check for f in report.findings] == ["weights-only"]
    assert report


@pytest.mark.parametrize(
    ("check", "severity", "suffix", "value"),
    [
        ("not-finite", "wrong", "conv1.0.weight", torch.nan),
        ("all-zero", "suspicious", "conv1.0.weight", 0.0),
        ("constant", "suspicious", "conv1.0.weight", 0.5),
        ("statistics", "wrong", "running_var", -1.0),
    ],
)
def test_odd_values(trained, tmp_path, check, severity, suffix, value):
    def change(state):
        name = next(name for name in state if name.endswith(suffix))
        state[name].fill_(value)

    report = saved(tmp_path, trained[1], change)
    assert [f.severity for f in report.named(check)] == [severity], report


def test_statistics_of_a_network_that_never_ran(tmp_path):
    model = tl.models.create("test_resnet", 2, weights=None)
    report = saved(tmp_path, model, lambda state: None, ".safetensors")
    assert [f.severity for f in report.named("statistics")] == ["suspicious"]


def test_a_checkpoint_that_does_not_fit_what_it_says(trained, tmp_path):
    from safetensors import safe_open

    with safe_open(trained[0], "pt") as opened:
        about = json.loads(opened.metadata()["tlcourse"]) | {"classes": ["a", "b", "c"]}
    file = tmp_path / "model.safetensors"
    save_file(dict(trained[1].state_dict()), file, metadata={"tlcourse": json.dumps(about)})
    (finding,) = doctor.diagnose(file).named("checkpoint")
    assert finding.severity == "wrong"
    assert "size mismatch" in finding.evidence


def test_what_is_no_checkpoint(tmp_path):
    (tmp_path / "model.pth").write_bytes(b"nothing")
    assert [f.check for f in doctor.diagnose(tmp_path / "model.pth").findings] == ["unreadable"]
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pth")
    assert "pickle" in doctor.diagnose(tmp_path / "whole.pth").findings[0].evidence


# The command


def test_the_command(photos, capsys, tmp_path):
    assert cli.main(["doctor", str(photos)]) == 0
    assert "photos: nothing found" in capsys.readouterr().out
    (tmp_path / "bad.py").write_text(
        "optimizer = Adam(model.parameters())\nmodel.fc = nn.Linear(5, 2)\n", encoding="utf-8"
    )
    assert cli.main(["doctor", str(tmp_path / "bad.py")]) == 1
    assert "WRONG       line 2: The head is replaced" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.txt", "text", "is no script"),
        ("broken.ipynb", "{", "cannot be read as a notebook"),
        ("other.ipynb", "[]", "cannot be read as a notebook"),
        ("missing.py", None, "There is no file or folder"),
    ],
)
def test_what_is_refused(tmp_path, capsys, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    assert cli.main(["doctor", str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err
