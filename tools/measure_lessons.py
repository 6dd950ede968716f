"""Run every lesson with several base seeds, and write docs/lessons.md: claims, seconds, memory.

    python tools/measure_lessons.py           all lessons, five base seeds each
    python tools/measure_lessons.py 3.1 3.2   these; the other rows of the page stay
    python tools/measure_lessons.py --time    one run of each, for seconds and memory alone: nothing else may run

As on most laptops, the processor may use AVX2 and float32 only. A run downloads nothing: addresses lead nowhere.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tlcourse.lessons import find, find_all

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "lessons.md"
SEEDS = range(5)
LAPTOP = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "TLCOURSE_PROFILE": "mini"}
OFFLINE = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")


def run(lesson: Path, seed: int, folder: Path) -> dict:
    """Run a lesson in a process of its own; return claims, seconds and peak memory in GB."""
    environment = {**os.environ, **LAPTOP, **OFFLINE, "TLCOURSE_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "tlcourse.cli", "run", str(lesson), "--seed", str(seed), "--out", str(folder)]
    with (folder / "log").open("w+", encoding="utf-8") as log:
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        log.seek(0)
        lines = log.read().splitlines()
    wrong = [line for line in lines if line.startswith(("NO ", "FAILED"))]
    print(f"{lesson.stem}, seed {seed}: {lines[-1]}", *wrong, sep="\n  ", flush=True)
    claims, _, rest = lines[-1].partition(" claims hold. ")
    # The kernel's memory counts as that of the command, which waited for it.
    return {"ok": status == 0, "claims": claims, "seconds": float(rest.split()[0] or 0), "gb": used.ru_maxrss / 1e6}


def main() -> int:
    """Run all lessons and write the page; exit with 1 if a claim was false or a cell failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lessons", nargs="*", help="sections (default: all)")
    parser.add_argument("--time", action="store_true", help="keep the claims; measure seconds and memory anew, once")
    options = parser.parse_args()
    chosen = [find(section) for section in options.lessons] or find_all()
    old = PAGE.read_text(encoding="utf-8").splitlines() if PAGE.exists() else []
    rows = {line.split("|")[1].strip(): line for line in old if line.startswith("| ")}
    ok = True
    for lesson in chosen:
        found = []
        for seed in SEEDS[:1] if options.time else SEEDS:
            with tempfile.TemporaryDirectory() as folder:
                found.append(run(lesson, seed, Path(folder)))
        ok &= all(one["ok"] for one in found)
        most = {key: max(one[key] for one in found) for key in ("seconds", "gb")}
        claims = rows[lesson.stem].split(" | ")[1:-2] if options.time else [one["claims"] for one in found]
        cells = [lesson.stem, *claims, f"{most['seconds']:.0f}", f"{most['gb']:.1f}"]
        rows[lesson.stem] = "| " + " | ".join(cells) + " |"
    titles = ["lesson", *(f"seed {seed}" for seed in SEEDS), "seconds, slowest", "GB, largest"]
    text = (
        "# The lessons, measured\n\n`python tools/measure_lessons.py` runs every lesson from a clean kernel, with an "
        "empty cache, offline, in `mini`, once for each base seed, with AVX2 and float32 only, and writes this page. "
        "Each cell says how many claims hold. Seconds and memory are the largest of these runs, or those of one run on "
        "a quiet machine (`--time`).\n\n"
    )
    table = [
        f"| {' | '.join(titles)} |",
        "|" + "---|" * len(titles),
        *(rows[lesson.stem] for lesson in find_all() if lesson.stem in rows),
    ]
    PAGE.write_text(text + "\n".join(table) + "\n", encoding="utf-8")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
