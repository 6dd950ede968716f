"""What a second process brings, and what it costs: the same steps by one process, by two, and by two that never talk.

    python benchmarks/processes.py            # ResNet-18 at 64 pixels, one thread per process; a table on the screen

Two processes that do not talk are the most that this machine can give. The difference to two that do is the price of
averaging gradients.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from types import SimpleNamespace

import torch
import torchvision

import tlcourse as tl

STEPS, BATCH, SIZE = 8, 16, 64  # images per step and process


def measure() -> float:
    """Train for some steps on tensors in memory; return images per second of this process."""
    torch.set_num_threads(1)
    processes = int(os.environ.get("WORLD_SIZE", 1))
    images, labels = torch.randn(BATCH * processes, 3, SIZE, SIZE), torch.arange(BATCH * processes) % 2
    model = torchvision.models.resnet18(num_classes=2)
    data = SimpleNamespace(train=[(images, labels)] * STEPS, val=[(images[:2], labels[:2])])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    history = tl.train.fit(model, data, optimizer, epochs=2, precision="float32")
    return STEPS * BATCH / history.epochs[-1].seconds


def once(kind: str) -> float:
    """Run one kind in processes of its own; return images per second of all of them together."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1", "TQDM_DISABLE": "1"}
    me = [__file__, "--one"]
    if kind == "together":
        commands = [[sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *me]]
    else:
        commands = [[sys.executable, *me]] * (2 if kind == "apart" else 1)
    running = [subprocess.Popen(c, env=environment, stdout=subprocess.PIPE, text=True) for c in commands]
    outputs = [process.communicate()[0] for process in running]
    speeds = [float(line.removeprefix("speed ")) for text in outputs for line in text.splitlines() if "speed" in line]
    if any(process.returncode for process in running) or len(speeds) != (1 if kind == "one" else 2):
        raise RuntimeError(f"A process of kind {kind!r} failed.")
    return sum(speeds)


def main() -> None:
    """Alternate the three kinds, and print their medians."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if options.one:
        print(f"speed {measure()}\n", end="", flush=True)  # in one piece: two processes write to one pipe
        return
    kinds = {"one": "one process", "apart": "two, each its own model", "together": "two, one model"}
    speeds: dict[str, list[float]] = {kind: [] for kind in kinds}
    start = time.perf_counter()
    for _ in range(options.repeats):
        for kind in kinds:
            speeds[kind].append(once(kind))
    median = {kind: statistics.median(values) for kind, values in speeds.items()}
    print("| processes | images/s | of one |\n|---|---|---|")
    for kind, name in kinds.items():
        print(f"| {name} | {median[kind]:.0f} | {median[kind] / median['one']:.2f} |")
    price = 1 - median["together"] / median["apart"]
    megabytes = 4 * tl.models.count(torchvision.models.resnet18(num_classes=2).parameters()) / 1e6
    print(f"\nAveraging {megabytes:.0f} MB of gradients per step costs {price:.0%} of the speed here.")
    print(f"{BATCH} images per step and process, {SIZE} pixels, {time.perf_counter() - start:.0f} s in all.")


if __name__ == "__main__":
    main()
