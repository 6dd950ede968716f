"""Training beside other programs: images per second alone, and while one or two other processes keep a core busy.

    python benchmarks/busy.py            # about four minutes on two cores; writes busy.md

PyTorch's threads wait for each other some hundred times in a training step. With `OMP_WAIT_POLICY=ACTIVE` they spin
meanwhile, as they do for some milliseconds by default; where the package is imported before torch, they sleep.
Spinning is a little faster alone. Beside a program that needs a core it costs much of the speed.

Each measurement is a process of its own; the ways to wait take turns, and everything is repeated.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

REPORT = Path(__file__).with_suffix(".md")
ISA = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")  # with both set to avx2: what most laptops have
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
POLICIES = {"passive": {}, "active": {"OMP_WAIT_POLICY": "ACTIVE"}}  # the first is the package's default
BUSY = (0, 1, 2)
SIZE, BATCH, STEPS = 64, 32, 2  # pixels, images per step, steps per epoch
LOST_BESIDE_ONE, LOST_ALONE = 0.4, 0.1  # goals: share of the speed that passive waiting may lose


def measure(seconds: float, busy: int) -> float:
    """Train for at least so many seconds beside so many busy processes; return images per second."""
    import tlcourse as tl  # before torch

    import torch  # isort: skip

    torch.manual_seed(0)
    model = tl.models.create("tl_resnet", num_classes=2)
    images, labels = torch.randn(BATCH, 3, SIZE, SIZE), torch.arange(BATCH) % 2
    data = SimpleNamespace(train=[(images, labels)] * STEPS, val=[(images[:2], labels[:2])])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def epoch() -> float:
        return tl.train.fit(model, data, optimizer, epochs=1, precision="float32").epochs[0].seconds

    epoch()  # allocates memory and starts the threads
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        epochs = []
        while sum(epochs) < seconds:
            epochs.append(epoch())
    finally:
        for other in others:
            other.kill()
            other.wait()
    return len(epochs) * STEPS * BATCH / sum(epochs)


def in_own_process(policy: str, busy: int, seconds: float) -> float:
    """Measure in a new process that waits as the policy says."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment |= POLICIES[policy] | {"TQDM_DISABLE": "1"}
    command = [sys.executable, __file__, "--one", str(busy), "--seconds", str(seconds)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def measure_all(repeats: int, seconds: float) -> dict[str, dict[int, float]]:
    """Return the median of images per second for each policy and each number of busy processes."""
    rates = {policy: {busy: [] for busy in BUSY} for policy in POLICIES}
    for repeat in range(repeats):
        for busy in BUSY:
            for policy in list(POLICIES)[:: -1 if repeat % 2 else 1]:  # no policy is always the first
                rates[policy][busy].append(in_own_process(policy, busy, seconds))
                print(
                    f"{repeat + 1}/{repeats} {policy} beside {busy}: {rates[policy][busy][-1]:.1f} images/s", flush=True
                )
    return {
        policy: {busy: statistics.median(runs) for busy, runs in by_busy.items()} for policy, by_busy in rates.items()
    }


def report(rates: dict[str, dict[int, float]], repeats: int, seconds: float) -> tuple[str, bool]:
    """Return the page in Markdown, and whether both goals are met."""
    import torch

    from tlcourse import runtime

    beside = 1 - rates["passive"][1] / rates["passive"][0]
    alone = 1 - rates["passive"][0] / rates["active"][0]
    given = "".join(f"{name}={os.environ[name]} " for name in ISA if name in os.environ)
    machine = f"{platform.machine()}, {runtime.cores()} cores, {torch.get_num_threads()} threads"
    lines = [
        "# Training beside other programs",
        "",
        f"Made by `{given}python benchmarks/busy.py --repeats {repeats} --seconds {seconds:g}`. {machine}, "
        f"{torch.backends.cpu.get_cpu_capability()}, PyTorch {torch.__version__}.",
        "",
        f"`tl_resnet` at {SIZE} pixels, trained by `tl.train.fit` in float32, batches of {BATCH} in memory; images/s, "
        f"medians of {repeats} runs. In brackets: the share of the speed alone.",
        "",
        "| threads wait | alone | beside 1 busy process | beside 2 |",
        "|---|--:|--:|--:|",
    ]
    names = {"passive": "asleep (the package's default)", "active": "spinning (`OMP_WAIT_POLICY=ACTIVE`)"}
    for policy, name in names.items():
        cells = [f"{rate:.1f} ({rate / rates[policy][0]:.2f})" for rate in rates[policy].values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    goals = {
        f"beside one busy process training loses at most {LOST_BESIDE_ONE:.0%} of its speed": (beside, LOST_BESIDE_ONE),
        f"alone, sleeping costs at most {LOST_ALONE:.0%} against spinning": (alone, LOST_ALONE),
    }
    for goal, (lost, allowed) in goals.items():
        lines += ["", f"Goal: {goal}. Measured: {lost:.0%}, {'met' if lost <= allowed else 'missed'}."]
    return "\n".join([*lines, ""]), all(lost <= allowed for lost, allowed in goals.values())


def main() -> int:
    """Measure, write the page; return 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5, help="of training, per measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=REPORT)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(measure(options.seconds, options.one))
        return 0
    page, met = report(measure_all(options.repeats, options.seconds), options.repeats, options.seconds)
    options.out.write_text(page, encoding="utf-8")
    print(page)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
