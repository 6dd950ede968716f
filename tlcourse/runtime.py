"""Profile, device, seed, workers and folders: `setup()` chooses them, and prints what it chose and why."""

import multiprocessing
import os
import random
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pooch
import torch

import tlcourse

PROFILES = ("mini", "full")
MAX_WORKERS = 8  # about as many as keep one GPU busy with decoded images; more only cost memory


class OfflineError(RuntimeError):
    """A file cannot be downloaded: no network, no answer from the server, or other content than expected."""


@dataclass(frozen=True)
class Runtime:
    """What `setup` chose."""

    profile: str
    device: torch.device
    seed: int
    workers: int
    cache: Path
    bf16: bool  # whether autocast to bfloat16 makes this device faster

    def seeds(self, count: int) -> list[int]:
        """Return `count` seeds for repeated runs, others for every base seed."""
        return [1000 * self.seed + i for i in range(count)]


_current: Runtime | None = None


def setup(
    profile: str | None = None,
    *,
    device: str | torch.device | None = None,
    seed: int | None = None,
    workers: int | None = None,
) -> Runtime:
    """Choose profile and device, seed Python, NumPy and PyTorch, and print one line that says what was chosen.

    Without an argument the profile comes from `TLCOURSE_PROFILE`; without that it is `full` on a machine with a CUDA
    GPU, else `mini`. The seed comes from `TLCOURSE_SEED`, else it is 0.

    Raises:
        ValueError: unknown profile, a device that this machine lacks, a seed or a number of workers out of range.
    """
    global _current
    _current, reason = _choose(profile, device, seed, workers)
    random.seed(_current.seed)
    np.random.seed(_current.seed)
    torch.manual_seed(_current.seed)
    print(_line(_current, reason))
    return _current


def get_runtime() -> Runtime:
    """Return the runtime that `setup` chose last; before any `setup`, what it would choose, without seeding."""
    return _current or _choose(None, None, None, None)[0]


def best_precision(device: torch.device) -> str:
    """Return the precision that makes training on a device fastest without a loss scale: bfloat16 or float32."""
    return "bfloat16" if _bf16(device) else "float32"


def cache_folder() -> Path:
    """Return the folder for downloads and cached features: `TLCOURSE_CACHE`, else the system's cache folder."""
    return _folder_from("TLCOURSE_CACHE") or Path(pooch.os_cache("tlcourse"))


def data_folder() -> Path | None:
    """Return the folder with image sets that were downloaded by hand, from `TLCOURSE_DATA`."""
    return _folder_from("TLCOURSE_DATA")


def weights_folder() -> Path | None:
    """Return the folder with weights that were downloaded by hand, from `TLCOURSE_WEIGHTS`."""
    return _folder_from("TLCOURSE_WEIGHTS")


def shorten(path: str | os.PathLike) -> str:
    """Return a path as text, with the home folder as `~`."""
    path = Path(path)
    return f"~/{path.relative_to(Path.home()).as_posix()}" if path.is_relative_to(Path.home()) else str(path)


def cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _folder_from(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value).expanduser().absolute() if value else None


def _choose(profile, device, seed, workers) -> tuple[Runtime, str]:
    profile, reason = _profile(profile)
    device = _device(device, profile)
    if seed is None:
        seed = _seed_from_environment()
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed}; NumPy takes 0 to {2**32 - 1}.")
    if workers is None:
        workers = _workers(profile)
    elif workers < 0:
        raise ValueError(f"workers is {workers}; give 0 (no extra process) or more.")
    return Runtime(profile, device, seed, workers, cache_folder(), _bf16(device)), reason


def _seed_from_environment() -> int:
    value = os.environ.get("TLCOURSE_SEED", "0")
    if not value.isdecimal():
        raise ValueError(f"TLCOURSE_SEED is {value!r}: give a whole number, or unset it.")
    return int(value)


def _profile(profile: str | None) -> tuple[str, str]:
    named = os.environ.get("TLCOURSE_PROFILE")
    if profile is not None:
        reason = "asked for"
    elif named:
        profile, reason = named, "TLCOURSE_PROFILE"
    elif torch.cuda.is_available():
        profile, reason = "full", "GPU found"
    else:
        profile, reason = "mini", "no CUDA GPU found"
    if profile not in PROFILES:
        raise ValueError(f"Profile {profile!r} ({reason}) does not exist. Choose one of: {', '.join(PROFILES)}.")
    return profile, reason


def _device(device: str | torch.device | None, profile: str) -> torch.device:
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        # The small models of mini are faster on the processor than on an integrated GPU.
        return torch.device("mps" if profile == "full" and torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise ValueError(f"Device {str(device)!r} cannot be used here ({reason}). Try 'cpu'.") from error
    return device


def _workers(profile: str) -> int:
    if profile == "mini":
        return 0
    # Where processes are not forked, they import the main module again: a notebook's own classes are lost, and a script
    # without a main guard would start them over and over.
    forks = (multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]) == "fork"
    interactive = hasattr(sys, "ps1") or "ipykernel" in sys.modules
    script = getattr(sys.modules["__main__"], "__file__", None)
    guarded = not script or not Path(script).is_file() or b"__main__" in Path(script).read_bytes()
    return min(MAX_WORKERS, cores()) if forks or (guarded and not interactive) else 0


def _bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    if torch.backends.cpu.get_cpu_capability() == "AVX2":
        return False  # an older processor, or one of which PyTorch may not use more (ATEN_CPU_CAPABILITY)
    if hasattr(torch.cpu, "get_capabilities"):
        has = torch.cpu.get_capabilities()
        return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    # Before PyTorch had a public function for this, it had private ones, not the same in every version.
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check() for check in checks if check is not None)


def _line(runtime: Runtime, reason: str) -> str:
    device = runtime.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    count = cores()
    parts = [
        f"tlcourse {tlcourse.__version__}",
        f"profile {runtime.profile} ({reason})",
        f"{name}, {count} core{'s' * (count != 1)}" + ", bfloat16" * runtime.bf16,
        f"seed {runtime.seed}",
        f"workers {runtime.workers}",
        f"cache {shorten(runtime.cache)}",
    ]
    by_hand = {"data": data_folder(), "weights": weights_folder()}
    parts += [f"{word} {shorten(folder)}" for word, folder in by_hand.items() if folder is not None]
    if tlcourse.THREADS_SPIN and device.type == "cpu":
        parts.append("slow beside other programs: import tlcourse before torch, or set OMP_WAIT_POLICY=PASSIVE")
    return " | ".join(parts)
