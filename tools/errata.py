"""Write docs/errata.md: what the source chapter gets wrong, each with lines that show it.

    python tools/errata.py            run every line and write the page
    python tools/errata.py --check    say whether the page is what the lines give

What a line prints stands beside it on the page, so the page is true as long as it can be made anew.
"""

import argparse
import contextlib
import io
import pickle
import sys
import time
import traceback
import warnings
from pathlib import Path
from textwrap import dedent

import _errata_first
import _errata_second

PAGE = Path(__file__).resolve().parents[1] / "docs" / "errata.md"


def shown(code: str) -> str:
    """Run lines, and return what they print, or the last line of their error."""
    import PIL.Image
    import timm
    import torch
    import torchvision
    from torch import nn
    from torch.optim import lr_scheduler
    from torchvision.transforms import v2

    import tlcourse as tl

    torch.manual_seed(0)
    names = {"tl": tl, "torch": torch, "torchvision": torchvision, "timm": timm, "nn": nn, "v2": v2, "PIL": PIL}
    names |= {"lr_scheduler": lr_scheduler, "io": io, "pickle": pickle, "time": time, "warnings": warnings}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            exec(compile(code, "<line>", "exec"), names)
        except Exception as error:
            print(traceback.format_exception_only(error)[-1].strip())
    return printed.getvalue().strip()


def page() -> str:
    """Return the page."""
    parts = [
        "# What the source chapter gets wrong",
        "The chapter that this course follows. `python tools/errata.py` runs each entry's lines and writes what they "
        "print. They use `torch`, `torchvision` with `v2`, `timm`, `nn`, `lr_scheduler`, `PIL`, `tl`, and Python's own "
        "`io`, `pickle`, `time` and `warnings`.",
    ]
    for where, says, true, code in [*_errata_first.ERRATA, *_errata_second.ERRATA]:
        code = dedent(code).strip()
        parts.append(f"## {where}: {says}\n\n{true}\n\n```python\n{code}\n```\n\n```\n{shown(code)}\n```")
    return "\n\n".join(parts) + "\n"


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if the page differs")
    if not parser.parse_args().check:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    same = PAGE.read_text(encoding="utf-8") == page()
    print("docs/errata.md is what its lines give." if same else "docs/errata.md differs: run python tools/errata.py")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
