"""Hints for exercise 3, "Choose a model"."""

HINTS = {
    "ex3/size": (
        (
            "A tensor knows how many numbers it holds, and how many bytes each of them takes. "
            "`model.state_dict()` is a dictionary of tensors: print it for a small network with batch norm."
        ),
        (
            "For the first number, add up `p.numel()` over `model.parameters()`. For the second, go through "
            "`model.state_dict().values()` and don't assume four bytes for each number."
        ),
        (
            "The bytes of one tensor are `t.numel() * t.element_size()`. Return both as a pair: `return "
            "parameters, sum(...)`. Buffers, such as `running_mean` and `num_batches_tracked`, are in the second "
            "number only."
        ),
    ),
    "ex3/latency": (
        (
            "Five things: the mode of the network, gradients, one call before the others, the clock around each "
            "call, and what you make of the list of times."
        ),
        (
            "`time.perf_counter()` gives seconds. Put the differences into a list inside `with "
            "torch.inference_mode():`, and take `statistics.median` of them. Note `model.training` before you "
            "change it."
        ),
        (
            "`was = model.training; model.eval()`. Then, without gradients, call `model(image)` once, and "
            "`repeats` times with the clock. `model.train(was)`, and return `1000 * statistics.median(times)`."
        ),
    ),
    "ex3/front": (
        (
            "Write down for two networks when the first dominates the second. Two networks with the same three "
            "numbers don't dominate each other."
        ),
        (
            "If the accuracy is taken with a minus, all three numbers are better when lower. Then `all(a <= b "
            "...)` and `any(a < b ...)` say what dominating is. Compare each row with every other."
        ),
        (
            "`numbers(row)` returns `(row['parameters'], row['latency'], -row['accuracy'])`. Keep `row['model']` "
            "if no other row has all three numbers at most as high and one of them lower. `spread` plays no part "
            "here."
        ),
    ),
    "ex3/choose": (
        (
            "The three choices are the same question with other limits: of the rows that are within the limits, "
            "which is the most accurate? Write that once, as a function of two limits."
        ),
        (
            "First find resnet50's row, for its latency. A row fits if `parameters` is at most its limit and "
            "`latency + spread` is at most its own. Where there is no limit, `float('inf')` is one that "
            "everything fits."
        ),
        (
            "`max(fits, key=lambda row: (row['accuracy'], -row['latency']))` also decides between equally "
            "accurate networks; where `fits` is empty, the answer is None. The phone has the limits 6 and half of"
            " resnet50's latency, balance has resnet50's latency."
        ),
    ),
    "ex3/separated": (
        (
            "The formula takes accuracies as shares between zero and one, and the function is given percent. Try "
            "it by hand for 80 % and 79 % on 50,000 images."
        ),
        (
            "With `p = first / 100` and `q = second / 100`, the error of the difference is the root of the sum of"
            " `p * (1 - p) / n` and `q * (1 - q) / n`. The first may be the lower one."
        ),
        (
            "`error = (p * (1 - p) / n + q * (1 - q) / n) ** 0.5`, and then `return abs(p - q) > 2 * error`. For "
            "80 % and 79 % on 50,000 images, two errors are about half a point."
        ),
    ),
}
