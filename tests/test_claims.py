"""A claim shows itself, stops on false, and takes nothing but one boolean."""

from types import SimpleNamespace

import IPython
import IPython.display
import numpy as np
import pytest
import torch

from tlcourse.lessons.claims import CLAIM_MIME, ClaimError, claim

TRUE = [True, np.bool_(True), np.float32(2) > 1, torch.tensor(True), torch.tensor(2.0) > 1]
FALSE = [False, np.bool_(False), torch.tensor(False), torch.tensor(0.5) > 1]
NO_BOOLEANS = [
    None,
    1,
    0.8,
    "True",
    [True],
    np.array([True, True]),
    np.array([True]),
    np.float64(0.8),
    torch.tensor([True, False]),
    torch.tensor([True]),
    torch.tensor(1.0),
    torch.tensor(1),
    len,
]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What a notebook displays: its bundles, in order."""
    bundles: list[dict] = []
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setattr(IPython.display, "display", lambda bundle, raw: bundles.append(bundle))
    return bundles


@pytest.mark.parametrize("holds", TRUE, ids=repr)
def test_a_true_claim_prints_one_line(holds: object, capsys: pytest.CaptureFixture[str]) -> None:
    claim("frozen beats scratch", holds, "0.78 > 0.55")
    assert capsys.readouterr().out == "claim holds: frozen beats scratch (measured 0.78 > 0.55)\n"


@pytest.mark.parametrize("holds", FALSE, ids=repr)
def test_a_false_claim_is_shown_and_then_raises(holds: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ClaimError, match="does not hold: frozen beats scratch"):
        claim("frozen beats scratch", holds)
    assert capsys.readouterr().out == "claim does not hold: frozen beats scratch\n"


@pytest.mark.parametrize("holds", NO_BOOLEANS, ids=repr)
def test_only_one_boolean_is_accepted(holds: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TypeError, match="one True or False"):
        claim("anything goes", holds)
    assert capsys.readouterr().out == ""


def test_texts_are_checked() -> None:
    with pytest.raises(TypeError, match="statement as text, not True"):
        claim(True, "a beats b")
    with pytest.raises(TypeError, match=r"measured as text, not 0\.8"):
        claim("a beats b", True, 0.8)
    with pytest.raises(ValueError, match="one sentence"):
        claim(" ", True)


def test_a_notebook_gets_html_text_and_data(shown: list[dict], capsys: pytest.CaptureFixture[str]) -> None:
    claim("loss < 1 & falling", torch.tensor(True), "0.3 < 1")
    with pytest.raises(ClaimError):
        claim("it rises", False)
    held, failed = shown
    assert held["text/plain"] == "claim holds: loss < 1 & falling (measured 0.3 < 1)"
    assert "loss &lt; 1 &amp; falling" in held["text/html"]
    assert "✓ claim holds" in held["text/html"]
    assert held[CLAIM_MIME] == {"statement": "loss < 1 & falling", "holds": True, "measured": "0.3 < 1"}
    assert held[CLAIM_MIME]["holds"] is True  # A plain bool: a tensor could not be written to the notebook.
    assert "✗ claim does not hold" in failed["text/html"]
    assert failed[CLAIM_MIME]["holds"] is False
    assert capsys.readouterr().out == ""


def test_a_claim_error_is_an_assertion() -> None:
    assert issubclass(ClaimError, AssertionError)
