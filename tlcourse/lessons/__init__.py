"""What lessons stand on: claims, and running a lesson's notebook from a clean kernel."""

from tlcourse.lessons.claims import CLAIM_MIME, ClaimError, claim
from tlcourse.lessons.kernel import Step, execute
from tlcourse.lessons.run import LessonResult, claims_in, find, replace_text, run_lesson, write

__all__ = [
    "CLAIM_MIME",
    "ClaimError",
    "LessonResult",
    "Step",
    "claim",
    "claims_in",
    "execute",
    "find",
    "replace_text",
    "run_lesson",
    "write",
]
