"""What the doctor says: findings, each with its evidence and a remedy, and the table that they are about."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from textwrap import fill

from tlcourse.table import Table

SEVERITIES = ("wrong", "suspicious", "note")
MARKS = {"wrong": "✗", "suspicious": "!", "note": "i"}
# Okabe-Ito's vermilion, orange and blue, for the edge alone: the word says the same to those who see no colours.
EDGES = {"wrong": "#D55E00", "suspicious": "#E69F00", "note": "#0072B2"}
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

    def __post_init__(self):
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity is {self.severity!r}: choose one of {', '.join(SEVERITIES)}.")

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        indent = " " * 12
        paragraphs = [
            f"{self.severity.upper():<12}{place}{self.what} [{self.check}]",
            f"{indent}evidence: {self.evidence}",
            f"{indent}what to do: {self.advice}",
        ]
        # Names and addresses stay whole, so that they can be searched for.
        style = {"subsequent_indent": indent, "break_long_words": False, "break_on_hyphens": False}
        return "\n".join(fill(text, WIDTH, **style) for text in paragraphs)

    def _repr_html_(self) -> str:
        place = f"<code>{escape(self.where)}</code> " if self.where else ""
        return (
            f'<div style="border-left: 4px solid {EDGES[self.severity]}; padding: 0.2em 0.8em; margin: 0.5em 0">'
            f"<div><b>{MARKS[self.severity]} {self.severity}:</b> {place}{escape(self.what)} "
            f'<span style="opacity: 0.7">({escape(self.check)})</span></div>'
            f"<div>Evidence: {escape(self.evidence)}</div><div>What to do: {escape(self.advice)}</div></div>"
        )


@dataclass(frozen=True, repr=False)
class Report:
    """The doctor's answer; true where nothing is wrong.

    `table` has a row for each stage, part or file; `findings` come with the gravest first; `remarks` say what was not
    looked at, or only in part.
    """

    title: str
    table: Table
    findings: list[Finding]
    remarks: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))

    @property
    def ok(self) -> bool:
        """Whether no finding is `"wrong"`."""
        return not any(finding.severity == "wrong" for finding in self.findings)

    def __bool__(self) -> bool:
        return self.ok

    def named(self, check: str) -> list[Finding]:
        """Return the findings of one name, such as `"not-in-optimizer"`."""
        return [finding for finding in self.findings if finding.check == check]

    @property
    def verdict(self) -> str:
        """Count the findings in a few words."""
        found = Counter(finding.severity for finding in self.findings)
        words = [f"{found['wrong']} wrong", f"{found['suspicious']} suspicious", _plural(found["note"], "note")]
        return ", ".join(words) if self.findings else "nothing found"

    def __str__(self) -> str:
        blocks = [f"{self.title}: {self.verdict}", str(self.table), *map(str, self.findings), "\n".join(self.remarks)]
        return "\n\n".join(block for block in blocks if block)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        table = self.table._repr_html_() if self.table else ""
        remarks = "".join(f'<div style="opacity: 0.7">{escape(remark)}</div>' for remark in self.remarks)
        findings = "".join(finding._repr_html_() for finding in self.findings)
        return f"<b>{escape(self.title)}:</b> {escape(self.verdict)}{table}{findings}{remarks}"


def wrong(check: str, what: str, evidence: str, advice: str, where: str = "") -> Finding:
    """Return a finding of something that is wrong."""
    return Finding("wrong", check, what, evidence, advice, where)


def suspicious(check: str, what: str, evidence: str, advice: str, where: str = "") -> Finding:
    """Return a finding of something that can be meant, and mostly is not."""
    return Finding("suspicious", check, what, evidence, advice, where)


def note(check: str, what: str, evidence: str, advice: str, where: str = "") -> Finding:
    """Return a finding that is harmless and worth knowing."""
    return Finding("note", check, what, evidence, advice, where)


def listed(names: Iterable[object], most: int = 4) -> str:
    """Write the first names of many, and how many more there are."""
    texts = [str(name) for name in names]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"
