"""What the reader does in a lesson: a prediction, set beside what a cell then measures, and a slider."""

import html
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tlcourse.lessons.claims import in_notebook

_CHOSEN: dict[str, str] = {}  # question -> answer: a cell that runs again keeps the reader's guess


@dataclass(frozen=True)
class Guess:
    """A question and its choices; `answer` is what the reader chose, or None."""

    question: str
    choices: tuple[str, ...]

    @property
    def answer(self) -> str | None:
        """What the reader chose."""
        return _CHOSEN.get(self.question)

    def compare(self, result: object) -> None:
        """Print the guess, if there is one, beside the result."""
        guessed = "" if self.answer is None else f"your guess: {self.answer}\n"
        print(f"{guessed}the result: {result}")


def guess(question: str, choices: Sequence[str]) -> Guess:
    """Ask the reader for a prediction: a row of buttons in a notebook, a line of text elsewhere.

    Nothing is shown where nobody can answer: in `tlcourse run`, in the build, and in tests.

    Raises:
        ValueError: there are fewer than two choices, or two are the same.
    """
    asked = Guess(question, tuple(map(str, choices)))
    if len(set(asked.choices)) < max(2, len(asked.choices)):
        raise ValueError(f"guess() needs at least two choices, all different, not {list(choices)}.")
    if somebody_reads():
        _buttons(asked) if in_notebook() else print(f"Guess: {question} ({' / '.join(asked.choices)})")
    return asked


def somebody_reads() -> bool:
    """Whether a person may see this and answer: not in `tlcourse run`, in the build, or in tests."""
    return not any(name in os.environ for name in ("TLCOURSE_UNATTENDED", "PYTEST_VERSION"))


def _buttons(asked: Guess) -> None:
    import ipywidgets
    from IPython.display import display

    row = ipywidgets.ToggleButtons(options=asked.choices, value=asked.answer, style={"button_width": "auto"})
    row.observe(lambda change: _CHOSEN.__setitem__(asked.question, change["new"]), "value")
    display(ipywidgets.VBox([ipywidgets.HTML(f"<b>Your guess:</b> {html.escape(asked.question)}"), row]))


def slider(draw: Callable[[float], None], name: str, values: Sequence[float], start: float) -> None:
    """Draw a figure for a value that the reader moves with a slider; where nobody can move it, for `start`.

    Raises:
        ValueError: `start` is not among `values`.
    """
    if start not in values:
        raise ValueError(f"slider() starts at {start}, which is not among its values {list(values)}.")
    if not (somebody_reads() and in_notebook()):
        draw(start)
        return
    import ipywidgets
    from IPython.display import display

    moved = ipywidgets.SelectionSlider(options=values, value=start, description=name, continuous_update=False)
    display(moved, ipywidgets.interactive_output(lambda value: draw(value), {"value": moved}))
