"""Hints for exercise 2, "Schedule the learning rate"."""

HINTS = {
    "ex2/plateau": (
        (
            "Three things have to fit: which parameters take gradients, which parameters the optimizer was given, "
            "and what the scheduler waits for. Print each after your function has run."
        ),
        (
            "`model.requires_grad_(False)` freezes everything; then let `model.fc` take gradients. "
            "ReduceLROnPlateau has the arguments `mode`, `factor` and `patience`, and the defaults of two of them "
            "are not what the task asks for."
        ),
        (
            "A loss is better when it is lower, so `mode` is 'min'. `factor=0.5` halves. `patience=2` forgives "
            "two epochs and acts at the third. The optimizer is built on `model.fc.parameters()`, and both are "
            "returned: optimizer, scheduler."
        ),
    ),
    "ex2/groups": (
        (
            "A group is a dictionary with `params` and `lr`. Count: how many parameter tensors does the model "
            "have, and how many are in your groups?"
        ),
        (
            "`model.named_children()` gives conv1, bn1, act1, maxpool, layer1 to layer4, global_pool and fc. "
            "Those without parameters need no group. conv1 and bn1 are one stage, the stem. And the model arrives "
            "frozen."
        ),
        (
            "First `model.requires_grad_(True)`. Then go from the head down: fc has 0.004, layer4 0.004 / 2, "
            "layer3 0.004 / 4, and so on; conv1 and bn1 both have 0.004 / 32."
        ),
    ),
    "ex2/warmup": (
        (
            "Draw it first: write down the factor of the base rate for 2 epochs of 4 batches, that is for the "
            "steps 0 to 7."
        ),
        (
            "A factor multiplies every group's own rate, so the groups keep their ratio: LambdaLR takes a "
            "function of the step. The warm-up takes `batches` steps, the fall the other `epochs * batches - "
            "batches`."
        ),
        (
            "For a step below `batches` the factor is `(step + 1) / batches`. From there it is `(1 + cos(pi * "
            "done)) / 2`, where `done` is `(step - batches) / (epochs * batches - batches)`."
        ),
    ),
    "ex2/late": (
        (
            "Print `lr` and `initial_lr` of every group before and after your function: which of the two does "
            "your scheduler start from?"
        ),
        (
            "Three things: the parameters take gradients again, the optimizer gets a group, and then, not "
            "earlier, a scheduler is built. A scheduler that was built earlier has left the head's `lr` where it "
            "stopped."
        ),
        (
            "`optimizer.add_param_group({'params': parameters, 'lr': rate})`. Then for every group `group['lr'] = "
            "group.setdefault('initial_lr', group['lr'])`, and after that `CosineAnnealingLR(optimizer, steps)`."
        ),
    ),
    "ex2/gain": (
        (
            "`tl.experiments.compare` runs every way with every seed and returns a table of runs; "
            "`runs.difference(a, b)` pairs the two ways seed by seed, and prints an interval."
        ),
        (
            "The ways are named 'constant' and 'scheduled', with five seeds or more. A difference is shown only "
            "where its interval leaves out zero: that is what `.clear` says."
        ),
        (
            "`gain = runs.difference('scheduled', 'constant')`. The conclusion is 'better' if it is clear and "
            "`gain.mean` is above zero, 'worse' if it is clear and below, and else 'no difference shown'. Return "
            "`(runs, conclusion)`."
        ),
    ),
}
