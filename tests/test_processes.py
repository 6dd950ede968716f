"""Two processes train as one does: the same weights, and measurements that count every image once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import together
import torch
from accelerate import notebook_launcher

pytestmark = [
    pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed"),
    pytest.mark.skipif(sys.platform == "win32", reason="torchrun's store is not in PyTorch's Windows builds"),
]
HERE = Path(__file__).parent
SETTINGS = ["plain", "more", "unseeded", "stream", "pets", "kept"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Rank -> what it ended with; the rank "alone" is one process."""
    folder = tmp_path_factory.mktemp("together")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent), "ACCELERATE_USE_CPU": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, str(HERE / "together.py"), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "one").mkdir()
    together.main(folder / "one")
    found = {path.stem.removeprefix("rank-"): torch.load(path) for path in folder.rglob("rank-*.pt")}
    assert sorted(found) == ["0", "1", "alone"]
    return found | {"output": done.stdout + done.stderr, "folder": folder}


@pytest.mark.parametrize("setting", SETTINGS)
def test_two_processes_give_the_weights_of_one(results, setting):
    """Within 1e-5: sums of float32 in another order. Both processes hold the same weights, to the bit."""
    (first, _), (second, _), (alone, _) = (results[rank][setting] for rank in ("0", "1", "alone"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert max((first[name] - alone[name]).abs().max().item() for name in alone) < 1e-5


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_image_is_counted_once(results, setting):
    (_, first), (_, second), (_, alone) = (results[rank][setting] for rank in ("0", "1", "alone"))
    assert first == second
    assert first["images"] == alone["images"]
    for name in alone:
        assert first[name] == pytest.approx(alone[name], abs=1e-5), name


def test_the_first_process_writes_and_speaks_for_all(results):
    """One set of checkpoints, and no bar or message twice."""
    assert len(list((results["folder"] / "checkpoints").iterdir())) == 2


def test_two_processes_go_on_from_their_checkpoint(results):
    """The finished run's folder is found: nothing is trained, and the weights are the same."""
    before = results["0"]["more"][0]
    weights, _ = together.run(together.Data(), **together.settings(results["folder"])["more"])
    assert all(torch.equal(weights[name], before[name]) for name in before)


def test_a_notebook_launches_the_same_run(capsys):
    weights, _ = together.run(together.Data())
    launched = []
    notebook_launcher(lambda: launched.append(together.run(together.Data())[0]), num_processes=1)
    assert all(torch.equal(launched[0][name], weights[name]) for name in weights)
