"""Hints for exercise 5, "Diagnose failures"."""

HINTS = {
    "ex5/causes": (
        (
            "Read each docstring first, then look for the line that does something else. For every case ask three "
            "things: which images arrive, what trains, and how long are the steps?"
        ),
        (
            "Change `CASE` and read all six reports. Two of them have a finding that is called wrong. One has its "
            "fault in the table alone: compare the column of rates with the docstring."
        ),
        (
            "The flat curves are b and e: in b the doctor says why, in e it is one argument of `create`. The huge "
            "loss is a. In c the validation loss climbs. In d the doctor compares images. In f count the layers."
        ),
    ),
    "ex5/case_a": (
        (
            "Compare the losses with that of guessing, the logarithm of two. What makes a loss larger than that: a "
            "network that knows nothing, or one that is sure and wrong?"
        ),
        (
            "The optimizer is SGD with momentum. Lesson 3.3b finds a rate by a range test; for a head like this, "
            "useful rates lie far below one. Clipping the gradients to a small norm, an option of `fit`, also "
            "shortens steps."
        ),
        ("Take the function of case a as it is, and put a rate there that is a hundred times smaller: `lr=0.03`."),
    ),
    "ex5/case_e": (
        (
            "The head is trained at a rate that works in other cases, and the loss stays where guessing is. What does "
            "the head get to see, and who made it?"
        ),
        (
            "The layers below the head are frozen. Freezing keeps the values that are there. Which values are there "
            "after `create` with this argument?"
        ),
        (
            "`weights=None` gives random values, and then they are frozen. Leave that argument out, and the "
            "pre-trained weights are loaded. The rest of the function can stay."
        ),
    ),
    "ex5/case_c": (
        (
            "Find the epoch from which on the validation loss climbs. The training loss goes on falling there: the "
            "network has more freedom than 30 images can bind."
        ),
        (
            "Fewer epochs, a lower rate, fewer layers that train, or stronger augmentation: each can help, and here "
            "not each does. The check measures it. Begin with one change, and keep the number of images."
        ),
        ("`{'epochs': 3}` stops before the validation loss climbs far; a rate of `0.001` makes that milder still."),
    ),
    "ex5/case_b": (
        (
            "Look at the smallest and the largest value of a batch: `images.min()` and `images.max()`. Compare them "
            "with a batch of `splits.loaders()`."
        ),
        (
            "The doctor says it in its finding about normalisation: which mean and deviation are used, and which the "
            "weights want. Do the pixels count to 1 or to 255?"
        ),
        (
            "The transforms of `splits` come from the model's weights, so none of your own is needed: keep "
            "`splits.plain().take(train=40, val=40, seed=seed)`, and make the loaders from that."
        ),
    ),
    "ex5/case_d": (
        (
            "Follow one image through the function: how often is it in `views`, and where can the three go when all "
            "90 are shuffled?"
        ),
        (
            "Decide first which of the 30 originals validate, and only then make views. `torch.randperm(30)` shuffles "
            "the originals. Shuffling views separates what belongs together."
        ),
        (
            "`views[3 * i]` to `views[3 * i + 2]` show original `i`. So shuffle 30 numbers, give 7 to validation, and "
            "take `[3 * i + k for i in part for k in range(3)]` for each part."
        ),
    ),
    "ex5/case_f": (
        (
            "Two lists have to agree with the docstring: the parameters that take gradients, and those in the groups "
            "of the optimizer. Write both down by layer."
        ),
        (
            "`freeze` leaves the head alone to train. One layer of the plan is unfrozen and put into a group after "
            "that. The plan names one more, and nothing in the function mentions it."
        ),
        (
            "Call `requires_grad_(True)` for `model.layer3` as for `model.layer4`, and add a third group with its "
            "parameters. A rate of `0.001` or lower will do."
        ),
    ),
    "ex5/proof": (
        (
            "A way is a function of splits, a number of images and a seed: `partial(measure, case_b)` is one. "
            "`compare` takes a dictionary of four, and keeps what each measured under its name."
        ),
        (
            "`runs.only(data='own')` keeps the measurements on a set-up's own validation images. Its `difference(a, "
            "b)` is a minus b, with an interval, and `.clear` says whether that leaves out zero."
        ),
        (
            "For 'b own' take `runs.only(data='own').difference('b repaired', 'b')`: 'better' if it is clear and its "
            "mean is above zero, 'worse' if clear and below, else 'no difference shown'. The other two work alike."
        ),
    ),
}
