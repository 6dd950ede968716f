"""Profile, device, seed, workers, folders: what `setup` chooses and prints; how threads wait; quick imports."""

import multiprocessing
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tlcourse
from tlcourse import runtime

ROOT = Path(__file__).resolve().parents[1]
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def new_python(code: str, **variables: str) -> str:
    """Run code in a new Python that knows nothing of how threads shall wait; return what it prints."""
    environment = {name: value for name, value in os.environ.items() if name not in WAITING} | variables
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No earlier setup, no variables, no GPU, torch imported after the package."""
    monkeypatch.setattr(runtime, "_current", None)
    monkeypatch.setattr(tlcourse, "THREADS_SPIN", False)
    for name in ("PROFILE", "CACHE", "DATA", "WEIGHTS"):
        monkeypatch.delenv(f"TLCOURSE_{name}", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "A GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)


def test_without_a_gpu_the_profile_is_mini_and_one_line_says_why(capsys, monkeypatch):
    monkeypatch.setenv("TLCOURSE_CACHE", str(Path.home() / "somewhere" / "tl"))
    monkeypatch.setattr(runtime, "cores", lambda: 2)
    monkeypatch.setattr(runtime, "_bf16", lambda device: True)
    chosen = runtime.setup(seed=3)
    assert (chosen.profile, chosen.device, chosen.seed, chosen.workers) == ("mini", torch.device("cpu"), 3, 0)
    assert capsys.readouterr().out == (
        f"tlcourse {tlcourse.__version__} | profile mini (no CUDA GPU found) | cpu, 2 cores, bfloat16 | seed 3 "
        "| workers 0 | cache ~/somewhere/tl\n"
    )


def test_with_a_gpu_the_profile_is_full(gpu, monkeypatch, capsys):
    monkeypatch.setattr(runtime, "cores", lambda: 1)
    chosen = runtime.setup()
    assert (chosen.profile, chosen.device.type, chosen.workers) == ("full", "cuda", 1)
    assert not chosen.bf16, "emulated bfloat16 is slower, not faster"
    assert "profile full (GPU found) | A GPU, 1 core | seed 0" in capsys.readouterr().out


def test_the_argument_beats_the_variable_and_the_variable_beats_the_gpu(gpu, monkeypatch, capsys):
    monkeypatch.setenv("TLCOURSE_PROFILE", "mini")
    assert runtime.setup().profile == "mini"
    assert "mini (TLCOURSE_PROFILE)" in capsys.readouterr().out
    assert runtime.setup("full").profile == "full"
    assert "full (asked for)" in capsys.readouterr().out


def test_the_seed_comes_from_the_argument_then_the_variable(monkeypatch, capsys):
    monkeypatch.setenv("TLCOURSE_SEED", "4")
    assert runtime.setup("mini").seed == 4
    first = torch.rand(1)
    assert runtime.setup("mini", seed=2).seed == 2
    torch.manual_seed(4)
    assert torch.rand(1) == first
    monkeypatch.setenv("TLCOURSE_SEED", "-1")
    with pytest.raises(ValueError, match="whole number"):
        runtime.setup("mini")


def test_seeds_of_two_bases_differ():
    base = runtime.Runtime("mini", torch.device("cpu"), 0, 0, Path(), False)
    assert base.seeds(3) == [0, 1, 2]
    assert not set(base.seeds(100)) & set(replace(base, seed=1).seeds(100))


def test_mps_serves_the_full_profile_only(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert runtime._device(None, "full").type == "mps"
    assert runtime._device(None, "mini").type == "cpu"


def test_unknown_profile_names_the_choices(monkeypatch):
    with pytest.raises(ValueError, match=r"'big' \(asked for\).*mini, full"):
        runtime.setup("big")
    monkeypatch.setenv("TLCOURSE_PROFILE", "FULL")
    with pytest.raises(ValueError, match=r"'FULL' \(TLCOURSE_PROFILE\).*mini, full"):
        runtime.get_runtime()


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_here_is_refused(device):
    with pytest.raises(ValueError, match=f"Device '{device}' cannot be used here"):
        runtime.setup(device=device)


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"seed": 2**32}, {"workers": -1}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        runtime.setup(**wrong)


def test_a_failed_setup_leaves_the_last_one(capsys):
    chosen = runtime.setup("full", workers=1)
    with pytest.raises(ValueError, match="workers"):
        runtime.setup(workers=-1)
    assert runtime.get_runtime() is chosen


def test_setup_seeds_all_three(capsys):
    draws = []
    for _ in range(2):
        runtime.setup(seed=7)
        draws.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert draws[0] == draws[1]


def test_current_before_setup_chooses_quietly_and_seeds_nothing(capsys):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    assert runtime.get_runtime().profile == "mini"
    assert torch.equal(torch.rand(1), expected)
    assert capsys.readouterr().out == ""


def test_current_after_setup_is_that_one(monkeypatch, capsys):
    chosen = runtime.setup("full", device="cpu", workers=2)
    monkeypatch.setenv("TLCOURSE_PROFILE", "mini")
    assert runtime.get_runtime() is chosen


def test_full_has_up_to_eight_workers_but_none_in_a_notebook_without_fork(monkeypatch, tmp_path):
    monkeypatch.setattr(runtime, "cores", lambda: 32)
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none: None)
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert runtime._workers("full") == 0
    monkeypatch.delitem(sys.modules, "ipykernel")
    assert runtime._workers("full") == 8
    script = tmp_path / "script.py"
    script.write_text("import tlcourse\n")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(script), raising=False)
    assert runtime._workers("full") == 0  # without a main guard it would run again in each of them
    script.write_text("if __name__ == '__main__':\n    pass\n")
    assert runtime._workers("full") == 8
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert runtime._workers("full") == 0
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["fork", "spawn"])
    assert runtime._workers("full") == 8


@pytest.mark.parametrize(
    ("can", "pays"), [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx2": True}, False)]
)
def test_bf16_pays_on_a_processor_that_computes_with_it(monkeypatch, can, pays):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert runtime._bf16(torch.device("cpu")) is pays
    # The processor has it, but PyTorch was told to use no more than AVX2.
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not runtime._bf16(torch.device("cpu"))


def test_bf16_where_pytorch_does_not_know_the_processor(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert runtime._bf16(torch.device("cpu"))
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert not runtime._bf16(torch.device("cpu"))


def test_folders_come_from_variables(monkeypatch, tmp_path, capsys):
    assert runtime.data_folder() is None
    assert runtime.weights_folder() is None
    assert runtime.cache_folder().name == "tlcourse"
    monkeypatch.setenv("TLCOURSE_DATA", "~/images")
    monkeypatch.setenv("TLCOURSE_WEIGHTS", str(tmp_path))
    assert runtime.data_folder() == Path.home() / "images"
    assert runtime.weights_folder() == tmp_path
    runtime.setup()
    assert f"| data ~/images | weights {runtime.shorten(tmp_path)}\n" in capsys.readouterr().out


def test_threads_wait_passively_where_nothing_else_was_chosen():
    assert new_python("import os, tlcourse; print(os.environ['OMP_WAIT_POLICY'])") == "PASSIVE"
    assert new_python("import tlcourse; print(tlcourse.THREADS_SPIN)") == "False"


@pytest.mark.parametrize("name", WAITING)
def test_what_the_user_chose_for_waiting_threads_stays(name):
    code = f"import os, sys; sys.modules['torch'] = sys; import tlcourse; print([os.environ.get(n) for n in {WAITING}])"
    chosen = "ACTIVE" if name == "OMP_WAIT_POLICY" else "500"
    assert new_python(code, **{name: chosen}) == str([chosen if n == name else None for n in WAITING])
    code = "import sys; sys.modules['torch'] = sys; import tlcourse; print(tlcourse.THREADS_SPIN)"
    assert new_python(code, **{name: chosen}) == "False"


def test_setup_says_so_where_torch_was_imported_before_the_package(monkeypatch, capsys):
    assert new_python("import sys; sys.modules['torch'] = sys; import tlcourse; print(tlcourse.THREADS_SPIN)") == "True"
    monkeypatch.setattr(tlcourse, "THREADS_SPIN", True)
    runtime.setup()
    assert "import tlcourse before torch, or set OMP_WAIT_POLICY=PASSIVE" in capsys.readouterr().out


def test_the_package_and_its_claims_are_imported_without_heavy_libraries():
    code = "import sys, time, tlcourse as tl; print(time.process_time()); tl.claim('x', True); print(*sys.modules)"
    seconds, _, modules = new_python(code).split("\n")
    heavy = {"torch", "numpy", "matplotlib", "sklearn", "timm", "IPython", "nbformat", "nbclient", "ipykernel"}
    assert heavy & set(modules.split()) == set()
    assert float(seconds) < 0.3, "seconds of processor time, Python's own start included"
