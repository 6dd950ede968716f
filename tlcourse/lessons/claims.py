"""Statements of fact that a notebook checks while it runs."""

from __future__ import annotations

import html
import sys

CLAIM_MIME = "application/vnd.tlcourse.claim+json"

# Okabe-Ito's bluish green and vermilion: told apart by colour-blind readers, calm on light and dark pages.
_VERDICTS = {True: "claim holds", False: "claim does not hold"}
# Okabe and Ito's bluish green and vermilion, which colour-blind readers can tell apart.
_STYLES = {True: ("✓", "#009E73"), False: ("✗", "#D55E00")}


class ClaimError(AssertionError):
    """A claim that this run's measurements do not support."""


def claim(statement: str, holds: bool, measured: str = "") -> None:
    """Show whether a statement holds, and stop the cell when it does not.

    The claim is displayed as HTML, as plain text and as data (`CLAIM_MIME`), from which `tlcourse run` makes its table.
    `holds` is the result of a comparison: a bool, or a numpy or torch boolean without dimensions.

    Raises:
        ClaimError: the claim is false; it is displayed first.
        TypeError: `holds` is not a single boolean, or a text is not a string.
    """
    for name, text in (("statement", statement), ("measured", measured)):
        if not isinstance(text, str):
            raise TypeError(
                f"claim() needs {name} as text, not {text!r}. Write claim('A beats B', a > b, f'{{a}} > {{b}}')."
            )
    if not statement.strip():
        raise ValueError("claim() needs a statement: one sentence that is true or false.")
    truth = _truth(holds)
    line = f"{_VERDICTS[truth]}: {statement}" + (f" (measured {measured})" if measured else "")
    _show(line, {"statement": statement, "holds": truth, "measured": measured})
    if not truth:
        raise ClaimError(line)


def _truth(holds: object) -> bool:
    """Return `holds` as a bool; a float or an array is refused, because its truth value says nothing."""
    if isinstance(holds, bool):
        return holds
    # numpy's and torch's booleans are recognised by dtype and shape, so that claims import neither.
    if str(getattr(holds, "dtype", "")) in ("bool", "torch.bool") and getattr(holds, "shape", None) == ():
        return bool(holds)
    shown = repr(holds)
    raise TypeError(
        f"claim() needs holds as one True or False, not {shown[:60]} ({type(holds).__name__}). "
        "Compare first, as in `a > b + 0.1`; reduce an array with `.all()`."
    )


def _show(line: str, record: dict[str, str | bool]) -> None:
    """Display a claim in a notebook, or print it as a line anywhere else."""
    if not in_notebook():
        print(line)
        return
    from IPython.display import display

    display({"text/plain": line, "text/html": _html(record), CLAIM_MIME: record}, raw=True)


def in_notebook() -> bool:
    """Whether a notebook's kernel runs this: without IPython none does, and IPython in a terminal has no kernel."""
    ipython = sys.modules.get("IPython")
    return hasattr(ipython.get_ipython() if ipython else None, "kernel")


def box(mark: str, colour: str, verdict: str, text: str) -> str:
    """Return a verdict and HTML as one line with a coloured edge, readable also without styles: GitHub removes them."""
    return (
        f'<div style="border-left: 4px solid {colour}; padding: 0.3em 0.8em; margin: 0.3em 0">'
        f'<b style="color: {colour}">{mark} {verdict}:</b> {text}</div>'
    )


def _html(record: dict[str, str | bool]) -> str:
    statement, measured = html.escape(str(record["statement"])), html.escape(str(record["measured"]))
    tail = f' <span style="opacity: 0.7">(measured {measured})</span>' if measured else ""
    return box(*_STYLES[bool(record["holds"])], _VERDICTS[bool(record["holds"])], statement + tail)
