"""Images that the course draws: chest radiographs, inspected surfaces, land use."""

from tlcourse.synthetic.domains import DOMAINS, generate

__all__ = ["DOMAINS", "generate"]
