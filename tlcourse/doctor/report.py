"""What the doctor says: findings, each with its evidence and what to do, and the table that they are about."""

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from html import escape
from textwrap import fill
from types import ModuleType
from typing import Any

from tlcourse.doctor.findings import MESSAGES
from tlcourse.table import Table

# A mark and Okabe-Ito's vermilion, orange or blue; the word says the same to those who see no colours.
SEVERITIES = {"wrong": ("✗", "#D55E00"), "suspicious": ("!", "#E69F00"), "note": ("i", "#0072B2")}
WIDTH = 110  # characters of a line in a terminal


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    `severity` is `"wrong"` (the run does not do what it seems to do), `"suspicious"` (it can be meant, and mostly is
    not) or `"note"` (harmless, and worth knowing). `check` is the finding's short name, `evidence` what was measured,
    `advice` what to do, `where` a line of a script or a file.
    """

    severity: str
    check: str
    what: str
    evidence: str
    advice: str
    where: str = ""

    def __str__(self) -> str:
        place, indent = (f"{self.where}: " if self.where else ""), " " * 12
        title = f"{self.severity.upper():<12}{place}{self.what} [{self.check}]"
        paragraphs = [title, f"{indent}evidence: {self.evidence}", f"{indent}what to do: {self.advice}"]
        # Names and addresses stay whole, so that they can be searched for.
        style = {"subsequent_indent": indent, "break_long_words": False, "break_on_hyphens": False}
        return "\n".join(fill(text, WIDTH, **style) for text in paragraphs)

    def _repr_html_(self) -> str:
        place = f"<code>{escape(self.where)}</code> " if self.where else ""
        mark, colour = SEVERITIES[self.severity]
        return (
            f'<div style="border-left: 4px solid {colour}; padding: 0.2em 0.8em; margin: 0.5em 0">'
            f"<div><b>{mark} {self.severity}:</b> {place}{escape(self.what)} "
            f'<span style="opacity: 0.7">({escape(self.check)})</span></div>'
            f"<div>Evidence: {escape(self.evidence)}</div><div>What to do: {escape(self.advice)}</div></div>"
        )


@dataclass(frozen=True, repr=False)
class Report:
    """The doctor's answer; true where nothing is wrong.

    `table` has one row per stage, part or file; `findings` are sorted by severity; `remarks` say what was not looked
    at, or only in part.
    """

    title: str
    table: Table
    findings: list[Finding]
    remarks: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.findings.sort(key=lambda finding: list(SEVERITIES).index(finding.severity))

    @property
    def ok(self) -> bool:
        """Whether no finding is `"wrong"`."""
        return not any(finding.severity == "wrong" for finding in self.findings)

    def __bool__(self) -> bool:
        return self.ok

    def named(self, check: str) -> list[Finding]:
        """Return the findings with one name, such as `"not-in-optimizer"`."""
        return [finding for finding in self.findings if finding.check == check]

    @property
    def verdict(self) -> str:
        """Count the findings in a few words."""
        found = Counter(finding.severity for finding in self.findings)
        notes = f"{found['note']} note{'s' * (found['note'] != 1)}"
        return f"{found['wrong']} wrong, {found['suspicious']} suspicious, {notes}" if found else "nothing found"

    def __str__(self) -> str:
        blocks = [f"{self.title}: {self.verdict}", str(self.table), *map(str, self.findings), "\n".join(self.remarks)]
        return "\n\n".join(block for block in blocks if block)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        table = self.table._repr_html_() if self.table else ""
        remarks = "".join(f'<div style="opacity: 0.7">{escape(remark)}</div>' for remark in self.remarks)
        findings = "".join(finding._repr_html_() for finding in self.findings)
        return f"<b>{escape(self.title)}:</b> {escape(self.verdict)}{table}{findings}{remarks}"


Findings = Iterator[Finding]
Check = Callable[[Any], Findings]


def make_finding(severity: str, name: str, evidence: str, where: str = "", **values: object) -> Finding:
    """Make a finding with the words that `findings.py` has for `name`; `values` fill in what stands there in braces."""
    what, advice = (words.format(**values) for words in MESSAGES[name])
    return Finding(severity, name.partition("/")[0], what, evidence, advice, where)


wrong, suspicious, note = (partial(make_finding, severity) for severity in SEVERITIES)


def functions(*modules: ModuleType) -> tuple[Check, ...]:
    """Return the public functions that modules define, in the order of definition: in `checks` and `scripts`, all."""
    found = [(module, value) for module in modules for value in vars(module).values() if inspect.isfunction(value)]
    return tuple(f for module, f in found if f.__module__ == module.__name__ and not f.__name__.startswith("_"))


def run_checks(checks: Iterable[Check], subject: object) -> list[Finding]:
    """Return what the checks find; one that meets something unforeseen must not hide what the others find."""
    found = []
    for check in checks:
        try:
            found.extend(check(subject))  # keeps those before an error
        except Exception as error:
            found.append(note("check-failed", f"{type(error).__name__}: {str(error)[:200]}", check=check.__name__))
    return found


def listed(names: Iterable[object], most: int = 4) -> str:
    """Write the first few names, and how many more there are."""
    texts = [str(name) for name in names]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
