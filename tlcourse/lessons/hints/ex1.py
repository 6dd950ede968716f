"""Hints for exercise 1, "Choose a strategy"."""

HINTS = {
    "ex1/train": (
        (
            "Three switches have to agree for each part: whether its parameters take gradients, whether the "
            "optimizer has them, and whether its batch norms are in training or in evaluation mode."
        ),
        (
            "`model.named_children()` gives each part with its name. `part.requires_grad_(...)` sets the first "
            "switch and `part.train(...)` the third. Both take a truth value, such as `name in trains`. Set them "
            "before the optimizer is built."
        ),
        (
            "For each part: `part.requires_grad_(name in trains)` and `part.train(name in trains)`. Then "
            "`torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)`, and for each batch: "
            "loss, `zero_grad`, `backward`, `step`."
        ),
    ),
    "ex1/passes": (
        (
            "Work out by hand what one image costs when everything trains, and what it costs when only the head "
            "trains. Which terms do the two sums share?"
        ),
        (
            "One image costs the sum of all parts, and then twice the sum of the parts in `trains`. A pass costs "
            "that times the number of images."
        ),
        (
            "`each = sum(cost.values()) + 2 * sum(cost[name] for name in trains)`, and the answer is the "
            "whole-number division `budget // (images * each)`, which may be zero."
        ),
    ),
    "ex1/unbeaten": (
        (
            "Look at one way at a time, and ask of each other way in `ways` whether it beats this one. Print "
            "`runs.difference(a, b)` for one pair to see what it holds."
        ),
        (
            "A difference has `.mean`, `.clear` (the interval leaves out zero) and `.values`, one for each seed "
            "that the two ways have in common. `.clear` alone does not say which of the two is ahead."
        ),
        (
            "For each `way`, take `leads = [runs.difference(other, way) for other in ways if other != way]`. If "
            "one has fewer than five values, return `[]`. Keep the way unless some lead is clear and has a mean "
            "above zero."
        ),
    ),
    "ex1/radiographs": (
        (
            "`tl.experiments.compare` takes a dictionary of functions, the images, `sizes=[...]` and `seeds=...`. "
            "Each function is called with three arguments, and `learn` has four."
        ),
        (
            '`partial(learn, "frozen")` is a function of the other three arguments. Make one for each name in '
            "`WAYS`, so that all three run with the same seeds and the same images."
        ),
        (
            "`ways = {way: partial(learn, way) for way in WAYS}`, then `tl.experiments.compare(ways, "
            'sets["radiographs"], sizes=[20], seeds=runtime.seeds(5))`. The answer is `(runs, unbeaten(runs, '
            "list(WAYS)))`."
        ),
    ),
    "ex1/scenarios": (
        (
            "It is the same comparison twice more, with other images and another number of them. Runs of several "
            "scenarios go into one table, and each choice looks at one scenario's runs only."
        ),
        (
            "`runs = first + second + third`, if these are what `compare` returned. "
            '`unbeaten(runs.only(data="landuse"), list(WAYS))` lists what you may choose for the tiles.'
        ),
        (
            "Take the first of each list, because the list begins with the way that trains least: `choices = "
            "{name: unbeaten(runs.only(data=name), list(WAYS))[0] for name in SCENARIOS}`. The answer is `(runs, "
            "choices)`."
        ),
    ),
}
