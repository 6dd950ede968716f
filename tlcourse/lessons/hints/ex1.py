"""Hints for exercise 1, "Choose a strategy"."""

HINTS = {
    "ex1/trains": (
        (
            "Print the names of the parameters that take gradients after your function has run, and think of a "
            "network that arrives with everything frozen."
        ),
        (
            "First freeze everything, then let the chosen parts take gradients again: the head is `model.fc`, the"
            " last stage `model.layer4`. For 'everything', one call on the whole network is enough."
        ),
        (
            "`model.requires_grad_(strategy == 'everything')`, then `model.fc.requires_grad_(True)`, and for "
            "'last stage' also `model.layer4.requires_grad_(True)`."
        ),
    ),
    "ex1/passes": (
        (
            "What does one image cost in one pass? Write that down for a share of zero and for a share of one, "
            "then divide the budget by what all images cost."
        ),
        (
            "The forward pass costs 1, whatever trains. The backward pass costs twice the share. Whole passes "
            "only: what is left of the budget is not spent."
        ),
        (
            "One image costs `1 + 2 * share`, all images `images * (1 + 2 * share)`. The answer is `int(budget / "
            "(images * (1 + 2 * share)))`."
        ),
    ),
    "ex1/decide": (
        (
            "Start with the cheapest strategy and ask of each dearer one whether it is clearly better. "
            "`runs.difference(a, b)` pairs the two by seed."
        ),
        (
            "A difference d is clear if its interval leaves out zero: `d.clear`. It is clearly better if `d.mean`"
            " is above zero as well. Compare with every dearer strategy, not only with the next."
        ),
        (
            "For each strategy from the cheapest: if `any(d.clear and d.mean > 0 ...)` over `d = "
            "runs.difference(dearer, strategy)` is false, return the strategy. The last one is returned if "
            "nothing else was."
        ),
    ),
    "ex1/agree": (
        (
            "`tl.experiments.compare(ways, splits, sizes=..., seeds=...)` returns the runs. The ways, the "
            "radiographs and the number of images are in the cells above."
        ),
        (
            "`ways` holds the three strategies, `LIMITS['radiographs']` the number of images. Two seeds are "
            "enough here: `runtime.seeds(2)`."
        ),
        (
            "`answer = tl.experiments.compare(ways, radiographs, sizes=[40], seeds=runtime.seeds(2))`, with the "
            "three ways of the cell above, not less."
        ),
    ),
    "ex1/scenarios": (
        ("Your function `decide` takes the runs of one scenario. `stored.only(data='landuse')` returns them."),
        (
            "Call `decide` for each of the three names, and look at the differences that the cell above prints: "
            "which of the intervals leave out zero?"
        ),
        (
            "`answer = {name: decide(stored.only(data=name)) for name in LIMITS}`: a dictionary with a strategy "
            "for 'radiographs', 'landuse' and 'surfaces'."
        ),
    ),
}
