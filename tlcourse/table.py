"""Small tables that read well in a notebook, on GitHub and in a terminal."""

from collections.abc import Sequence
from html import escape


class Table(list):
    """A list of dictionaries with the same keys, shown as a table."""

    def _columns(self) -> list[tuple[str, list[str], bool]]:
        columns = []
        for key in self[0] if self else ():
            values = [row[key] for row in self]
            numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
            columns.append((str(key), [_text(v) for v in values], numeric))
        return columns

    def __str__(self) -> str:
        cells = []
        for key, values, numeric in self._columns():
            width = max(len(text) for text in [key, *values])
            pad = str.rjust if numeric else str.ljust
            cells.append([pad(text, width) for text in [key, "-" * width, *values]])
        return "\n".join("  ".join(line).rstrip() for line in zip(*cells, strict=True))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        columns = self._columns()
        align = ["right" if numeric else "left" for _, _, numeric in columns]
        head = _html_row("th", [key for key, _, _ in columns], align)
        rows = [_html_row("td", line, align) for line in zip(*(values for _, values, _ in columns), strict=True)]
        return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _html_row(tag: str, texts: Sequence[str], align: Sequence[str]) -> str:
    cells = (f'<{tag} style="text-align:{a}">{escape(t)}</{tag}>' for t, a in zip(texts, align, strict=True))
    return f"<tr>{''.join(cells)}</tr>"
