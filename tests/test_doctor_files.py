"""The doctor for scripts, notebooks, folders and checkpoints: what it must find, what it must not, how it answers."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import tlcourse as tl
from tlcourse import cli, doctor
from tlcourse.doctor.files import RULES
from tlcourse.doctor.findings import MESSAGES
from tlcourse.doctor.report import note

SOURCES = Path(doctor.__file__).parent

# What stands between two headings, `### name severity`, is one script.
BLOCKS = re.findall(
    r"^### ([a-z-]+) (\w+)\n(.*?)(?=^### |\Z)",
    Path(__file__).with_name("doctor_scripts.txt").read_text(encoding="utf-8"),
    re.MULTILINE | re.DOTALL,
)
BAD = [pytest.param(*block, id=f"{block[0]}-{i}") for i, block in enumerate(BLOCKS) if block[1] != "quiet"]
GOOD = [
    pytest.param(name, code, id=f"{name}-{i}") for i, (name, severity, code) in enumerate(BLOCKS) if severity == "quiet"
]
LOOP = next(code for name, severity, code in BLOCKS if (name, severity) == ("no-step", "quiet"))


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
    bad = [f for f in report.findings if f.severity != "note"] if name == "healthy" else report.named(name)
    assert not bad, report
    assert not report.named("check-failed"), report


def test_every_rule_has_both_tests():
    sources = "".join(path.read_text(encoding="utf-8") for path in SOURCES.glob("scripts/*.py"))
    names = {name.partition("/")[0] for name in MESSAGES if f'"{name}"' in sources}
    assert names == {name for name, severity, _ in BLOCKS if severity == "quiet"} - {"syntax", "healthy"}
    assert names == {name for name, severity, _ in BLOCKS if severity != "quiet"} - {"syntax"}


def test_every_message_is_used_and_says_what_to_do():
    sources = "".join(path.read_text(encoding="utf-8") for path in SOURCES.rglob("*.py"))
    assert [name for name in MESSAGES if f'"{name}"' not in sources] == []
    for what, advice in MESSAGES.values():
        assert what.endswith(".")
        assert advice.endswith(".")
    assert MESSAGES["labels/empty"][1] != MESSAGES["labels"][1]
    assert MESSAGES["head-size/too-many"][1] == MESSAGES["head-size"][1]  # it has none of its own


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


@pytest.mark.parametrize("first", ["# unpack the data\n", "\n", ""])
def test_cells_of_other_languages_are_named_and_not_read(tmp_path, first):
    cells = [{"cell_type": "code", "source": f"{first}%%bash\nrm -r data\nmkdir -p data/train"}]
    cells.append({"cell_type": "code", "source": "model = models.resnet18(pretrained=True)"})
    file = tmp_path / "lesson.ipynb"
    file.write_text(json.dumps({"cells": cells}), encoding="utf-8-sig")
    report = doctor.diagnose(file)
    assert [(f.severity, f.where) for f in report.findings] == [("note", "cell 2, line 1")], report
    assert "I found no PyTorch training here." in report.remarks
    assert "Not read, and not checked: cell 1 (%%bash)." in report.remarks


def test_lines_of_ipython_are_read_as_ipython_reads_them(tmp_path):
    code = [
        "# how long it takes",
        "%%time",
        "files = !ls data",
        "model.fit?",
        "!pip install \\",
        "    torch",
        "%time optimizer = optim.Adam(model.parameters())",
        'note = """',
        "! not a command",
        '"""',
        "if True:",
        "    %matplotlib inline",
        "    model.fc = nn.Linear(512, 2)",
    ]
    file = tmp_path / "lesson.ipynb"
    file.write_text(json.dumps({"cells": [{"cell_type": "code", "source": "\n".join(code)}]}), encoding="utf-8")
    report = doctor.diagnose(file)
    found = [(f.check, f.where) for f in report.findings]
    assert found == [("foreign-parameters", "cell 1, line 13")], report
    assert "cell 1, line 7" in report.findings[0].evidence


def test_what_is_not_pytorch_is_left_alone(tmp_path):
    code = "from mxnet import autograd\nfor x, y in train_iter:\n    loss.backward()\n    optimizer.step()\n"
    report = look(tmp_path, code)
    assert report.findings == []
    assert "I found no PyTorch training here." in report.remarks


def test_a_file_beside_it_is_named_as_not_read(tmp_path):
    (tmp_path / "data.py").write_text("loaders = None\n", encoding="utf-8")
    report = look(tmp_path, "import torch\nfrom data import loaders\nloss.backward()\n")
    assert "Not read, and not checked: data.py." in report.remarks
    assert "I found no PyTorch training here." not in report.remarks


def test_one_broken_line_does_not_hide_the_rest(tmp_path):
    report = look(
        tmp_path, "print(f'{25,557,032:,}')\noptimizer = optim.Adam(model.parameters())\nmodel.fc = nn.Linear(5, 2)"
    )
    assert [finding.check for finding in report.findings] == ["syntax", "foreign-parameters"]
    assert [finding.where for finding in report.findings] == ["line 1", "line 3"]
    assert "leading zeros" in report.findings[0].evidence  # what Python says, and the line
    assert "{25,557,032:,}" in report.findings[0].evidence


@pytest.mark.parametrize(
    ("frozen", "part"),
    [
        ("for p in model.parameters():\n    p.requires_grad = False", "The backbone"),
        ("for n, p in model.named_parameters():\n    if 'layer4' not in n:\n        p.requires_grad = False", "Part"),
    ],
)
def test_a_message_is_true_of_its_script(tmp_path, frozen, part):
    loop = "for epoch in range(3):\n    model.train()\n    for x, y in train_loader:\n        pass"
    report = look(tmp_path, f"model = models.resnet18(weights='DEFAULT')\n{frozen}\n{loop}")
    assert report.named("frozen-statistics-move")[0].what.startswith(f"{part} "), report
    flip = "val = ImageFolder('val', T.Compose([T.RandomHorizontalFlip(), T.ToTensor()]))"
    assert "split" not in look(tmp_path, flip).named("augmented-evaluation")[0].advice


def test_a_rule_that_fails_is_reported_and_hides_nothing(tmp_path, monkeypatch):
    def fails(script):
        yield note("not-called", "x", "line 1", call="f()")
        raise KeyError("odd code")

    def finds(script):
        yield note("deprecated/amp", "y", "line 1")

    monkeypatch.setattr("tlcourse.doctor.files.RULES", (fails, finds))
    report = look(tmp_path, "x = 1")
    assert {f.check for f in report.findings} == {"not-called", "check-failed", "deprecated"}
    assert report.named("check-failed")[0].evidence == "KeyError: 'odd code'"


def test_every_module_of_rules_is_read():
    assert {rule.__module__ for rule in RULES} == {
        f"tlcourse.doctor.scripts.{path.stem}"
        for path in SOURCES.glob("scripts/*.py")
        if path.stem not in ("__init__", "source", "reader", "nodes", "networks")
    }
    assert all(rule.__doc__ and not rule.__name__.startswith("_") for rule in RULES)


def test_a_script_is_read_without_pytorch(tmp_path):
    (tmp_path / "train.py").write_text(LOOP, encoding="utf-8")
    cells = [{"cell_type": "code", "source": LOOP}]
    (tmp_path / "train.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    heavy = {"torch", "torchvision", "timm", "sklearn", "matplotlib", "numpy", "PIL"}
    code = "import sys; from tlcourse.doctor import diagnose; reports = [diagnose(file) for file in sys.argv[1:]]; "
    code += f"print(len(reports), sorted({heavy} & set(sys.modules)))"
    files = [str(tmp_path / "train.py"), str(tmp_path / "train.ipynb")]
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=True)
    assert done.stdout == "2 []\n"


def test_what_the_door_does_not_show():
    with pytest.raises(AttributeError, match=r"'tlcourse\.doctor' has no attribute 'cure'"):
        doctor.cure  # noqa: B018


# Folders


def write(folder, part, name, count, *, size=48, start=0):
    place = folder / part / name
    place.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        key = sum(map(ord, part + name)) * 1000 + i
        noise = np.random.default_rng(key).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((size, size)).save(place / f"{i}.png")


@pytest.fixture
def image_folder(tmp_path):
    folder = tmp_path / "pets"
    for part, count in (("train", 12), ("val", 10)):
        for name in ("cats", "dogs"):
            write(folder, part, name, count)
    return folder


def test_a_sound_folder(image_folder):
    report = doctor.diagnose(image_folder)
    assert report.findings == [], report
    assert [tuple(row.values()) for row in report.table][:2] == [("train", "cats", 12), ("train", "dogs", 12)]


def test_damaged_files(image_folder):
    (image_folder / "train" / "cats" / "0.png").write_bytes(b"not an image")
    (finding,) = doctor.diagnose(image_folder).named("unreadable")
    assert finding.severity == "wrong"
    assert "1 of 44: train/cats/0.png (not an image)" in finding.evidence


def test_copies_across_parts_and_classes(image_folder):
    shutil.copy(image_folder / "train/cats/3.png", image_folder / "val/dogs/copy.png")
    with Image.open(image_folder / "train/dogs/4.png") as image:
        image.resize((96, 96)).convert("RGB").save(image_folder / "val/dogs/again.jpg", quality=80)
    report = doctor.diagnose(image_folder)
    (across,) = report.named("same-image")
    assert across.severity == "wrong"
    assert "1 exact and 1 near copies: train/cats/3.png = val/dogs/copy.png" in across.evidence
    (labels,) = report.named("two-labels")
    assert "cats and dogs" in labels.what
    assert not report.named("copies")


def test_copies_within_a_part(image_folder):
    shutil.copy(image_folder / "train/cats/3.png", image_folder / "train/cats/copy.png")
    report = doctor.diagnose(image_folder)
    assert [f.severity for f in report.named("copies")] == ["note"]
    assert report
    shutil.rmtree(image_folder / "val")
    (image_folder / "train").rename(image_folder / "all")
    assert [f.severity for f in doctor.diagnose(image_folder / "all").named("copies")] == ["suspicious"]


def test_classes_of_different_size(image_folder):
    write(image_folder, "train", "cats", 120, start=100)
    report = doctor.diagnose(image_folder)
    assert "train: 132 cats, 12 dogs, 144 in all" in report.named("imbalance")[0].evidence
    assert not report.named("few-images")


def test_few_tiny_and_long_images(image_folder):
    for file in (image_folder / "val" / "cats").glob("[3-9].png"):
        file.unlink()
    write(image_folder, "val", "dogs", 1, size=16)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 300, 3), dtype=np.uint8)).save(
        image_folder / "val/dogs/9.png"
    )
    report = doctor.diagnose(image_folder)
    assert "cats (3)" in report.named("few-images")[0].evidence
    assert [f.severity for f in report.named("tiny-images")] == ["suspicious"]
    assert "val/dogs/9.png (300 x 40)" in report.named("long-images")[0].evidence


@pytest.mark.parametrize(("brightest", "dark"), [(200, True), (1000, True), (4000, False), (60000, False)])
def test_images_of_sixteen_bits_that_come_out_dark(image_folder, brightest, dark):
    for i, file in enumerate(sorted(image_folder.rglob("*.png"))):
        values = np.random.default_rng(i).integers(0, brightest, (48, 48)).astype(np.uint16)
        Image.fromarray(values).save(file)
    report, splits = doctor.diagnose(image_folder), tl.data.from_folder(image_folder)
    assert any("16 or 32 bits are dark" in remark for remark in report.remarks) == dark
    assert any("16 or 32 bits are dark" in remark for remark in splits.notes) == dark


def test_a_folder_that_is_laid_out_wrongly(image_folder):
    shutil.rmtree(image_folder / "val" / "dogs")
    (finding,) = doctor.diagnose(image_folder).findings
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


@pytest.mark.parametrize("kind", [lambda t: t.to(torch.float8_e4m3fn), lambda t: t.to_sparse(), lambda t: t.to("meta")])
def test_tensors_of_other_kinds(trained, tmp_path, kind):
    def change(state):
        state["conv1.0.weight"] = kind(state["conv1.0.weight"])

    report = saved(tmp_path, trained[1], change)
    assert [f.check for f in report.findings] == ["weights-only"]
    with_value = kind(torch.ones(1, 1)).device.type == "cpu"  # or there is a name and a shape alone
    assert report.table[0]["tensors"] == len(trained[1].state_dict()) - (not with_value)


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


def test_the_command(image_folder, capsys, tmp_path):
    assert cli.main(["doctor", str(image_folder)]) == 0
    assert "pets: nothing found" in capsys.readouterr().out
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
