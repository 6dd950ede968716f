"""Exercise 3: right answers in any spelling are right; each usual mistake is refused, and named."""

import copy
import itertools
import math
import operator
import statistics
import time
import timeit
from functools import partial

import judges
import numpy as np
import torch
from safetensors.torch import save
from torch import nn
from torch.utils import benchmark

import tlcourse as tl


def size(model, *, count=torch.Tensor.numel, each=None, train_only=False, buffers=True, integers=True):
    parameters = [p for p in model.parameters() if p.requires_grad or not train_only]
    tensors = list(model.state_dict().values()) if buffers else list(model.parameters())
    tensors = [t for t in tensors if integers or t.is_floating_point()]
    return sum(map(count, parameters)), sum(t.numel() * (each or t.element_size()) for t in tensors)


def size_by_modules(model):
    tensors = [*model.parameters(), *model.buffers()]
    return tl.models.count(model.parameters()), sum(t.untyped_storage().nbytes() for t in tensors)


def size_by_numpy(model):
    parameters = [p.detach().numpy() for p in model.parameters()]
    return np.array([sum(p.size for p in parameters), sum(t.numpy().nbytes for t in model.state_dict().values())])


def size_by_shapes(model):
    parameters = 0
    for _, p in model.named_parameters():
        parameters += math.prod(p.shape)
    return [parameters, sum(t.nbytes for t in model.state_dict().values())]


def counted_from_the_state(model):
    state = model.state_dict().values()
    return sum(t.numel() for t in state), size(model)[1]


def latency(
    model, image, repeats, *, warm=1, mode=True, grad=False, back=True, reduce=statistics.median, factor=1000, extra=0
):
    was, times = model.training, []
    if mode:
        model.eval()
    with torch.set_grad_enabled(grad):
        for turn in range(warm + repeats + extra):
            start = time.perf_counter()
            model(image)
            if turn >= warm:
                times.append(time.perf_counter() - start)
    if back:
        model.train(was)
    return factor * reduce(times)


@torch.no_grad()
def latency_in_nanoseconds(model, image, repeats):
    with tl.evaluation.evaluation_mode(model):
        times = []
        for _ in range(repeats + 1):
            start = time.perf_counter_ns()
            model(image)
            times.append((time.perf_counter_ns() - start) / 1e6)
    return np.median(times[1:])


def latency_by_the_package(model, image, repeats):
    return 1000 * statistics.median(tl.cost.seconds({"it": model}, image.shape[-1], repeats=repeats)["it"])


def latency_warmed_up_longer(model, image, repeats):
    return torch.tensor(latency(model, image, repeats, warm=2))


@torch.inference_mode()
def latency_by_timeit(model, image, repeats):
    with tl.evaluation.evaluation_mode(model):
        model(image)
        return 1000 * np.median(timeit.repeat(lambda: model(image), number=1, repeat=repeats))


@torch.inference_mode()
def latency_by_benchmark(model, image, repeats):
    """PyTorch's benchmark warms up before each measured call."""
    with tl.evaluation.evaluation_mode(model):
        model(image)
        timer = benchmark.Timer("model(image)", globals={"model": model, "image": image})
        return 1000 * statistics.median(timer.timeit(1).median for _ in range(repeats))


def with_a_part_in_evaluation_mode(model, image, repeats):
    found = latency(model, image, repeats, back=False)
    model.training = True
    return found


def on_a_copy(model, image, repeats):
    return latency(copy.deepcopy(model), image, repeats)


def of_a_batch_of_calls(model, image, repeats):
    was = model.training
    model.eval()
    with torch.inference_mode():
        model(image)
        start = time.perf_counter()
        for _ in range(repeats):
            model(image)
    model.train(was)
    return 1000 * (time.perf_counter() - start) / repeats


def numbers(row):
    return row["parameters"], row["latency"], -row["accuracy"]


def front(table, *, worse=operator.le, better=operator.lt, strict=any, key=numbers):
    def dominates(a, b):
        a, b = key(a), key(b)
        return all(map(worse, a, b)) and strict(map(better, a, b))

    return [row["model"] for row in table if not any(dominates(other, row) for other in table)]


def front_by_numpy(table):
    x = np.array([numbers(row) for row in table])
    at_most = (x[:, None] <= x[None]).all(-1) & (x[:, None] < x[None]).any(-1)
    return np.array([row["model"] for row in table])[~at_most.any(0)]


def front_by_striking_out(table):
    left = list(table)
    for a, b in itertools.permutations(table, 2):
        if numbers(a) != numbers(b) and all(x <= y for x, y in zip(numbers(a), numbers(b), strict=True)):
            left = [row for row in left if row is not b]
    return {row["model"] for row in left}


def front_taken_out(table):
    names = front(table)
    for row in [row for row in table if row["model"] not in names]:
        table.remove(row)
    return names


def front_of_rows(table):
    names = front(table)
    return [row for row in table if row["model"] in names]


def front_of_time_alone(table):
    return tl.cost.front({row["model"]: (row["latency"], row["accuracy"]) for row in table})


def front_in_one_pass(table):
    names, best = [], 0
    for row in sorted(table, key=lambda row: (row["latency"], -row["accuracy"])):
        if row["accuracy"] > best:
            names.append(row["model"])
            best = row["accuracy"]
    return names


def choose(
    table, *, spread=1, within=operator.le, part=0.5, most=6, tie=-1, phone="both", fallback=None, key="accuracy", own=0
):
    limit = next(row for row in table if row["model"] == "resnet50")
    limit = limit["latency"] + own * limit["spread"]

    def best(parameters=math.inf, latency=math.inf):
        fits = [r for r in table if within(r["parameters"], parameters)]
        fits = [r for r in fits if within(r["latency"] + spread * r["spread"], latency)]
        top = max(fits, key=lambda r: (r[key], tie * r["latency"]), default={"model": fallback})
        return top["model"]

    limits = {"both": (most, part * limit), "space": (most,), "time": (math.inf, part * limit)}[phone]
    return {"phone": best(*limits), "accuracy": best(), "balance": best(latency=limit)}


def choose_from_the_sorted(table):
    ordered = sorted(table, key=lambda row: (-row["accuracy"], row["latency"]))
    limit = {row["model"]: row["latency"] for row in table}["resnet50"]
    slowest = [(row["model"], row["parameters"], row["latency"] + row["spread"]) for row in ordered]
    return {
        "balance": next((name for name, _, time in slowest if time <= limit), None),
        "accuracy": slowest[0][0],
        "phone": next((name for name, count, time in slowest if count <= 6 and 2 * time <= limit), None),
    }


def choose_from_the_front(table):
    names = [*front(table), "resnet50"]
    return choose([row for row in table if row["model"] in names])


def choose_without_ties(table, use):
    """Take the first of the most accurate for one use, whatever its latency."""
    chosen, by_name = choose(table)[use], {row["model"]: row for row in table}
    limit = math.inf if use == "accuracy" else by_name["resnet50"]["latency"]
    best = by_name[chosen]["accuracy"] if chosen else -1
    fits = [row["model"] for row in table if row["latency"] + row["spread"] <= limit and row["accuracy"] == best]
    return choose(table) | {use: next(iter(fits), None)}


def choose_another_for_balance(table):
    """Choose a second network, where one is the best for both."""
    found = choose(table)
    others = [row for row in table if row["model"] != found["phone"] or row["model"] == "resnet50"]
    return found | {"balance": choose(others)["balance"]}


def choose_with_a_column(table):
    for row in table:
        row["slowest"] = row["latency"] + row["spread"]
    table.sort(key=lambda row: row["accuracy"])
    return choose(table)


def choose_rows(table):
    rows = {row["model"]: row for row in table}
    return {use: rows.get(name) for use, name in choose(table).items()}


def choose_with_numpy(table):
    columns = {key: np.array([row[key] for row in table]) for key in table[0]}
    time = columns["latency"] + columns["spread"]
    limit = columns["latency"][columns["model"] == "resnet50"].item()
    found = {}
    for use, fits in (
        ("phone", (columns["parameters"] <= 6) & (time <= limit / 2)),
        ("accuracy", time > 0),
        ("balance", time <= limit),
    ):
        order = np.lexsort((columns["latency"], -columns["accuracy"], ~fits))
        found[use] = str(columns["model"][order[0]]) if fits.any() else None
    return found


def by_heart(table):
    return {"phone": "efficientnet_lite0", "accuracy": "convnext_large", "balance": "convnext_tiny"}


def separated(first, second, n, *, errors=2, absolute=True, add="squares", squared=True):
    p, q = first / 100, second / 100
    each = [(x * (1 - x) / (n if squared else 1)) ** 0.5 for x in (p, q)]
    error = math.hypot(*each) if add == "squares" else sum(each) if add == "errors" else max(each)
    gap = abs(p - q) if absolute else p - q
    return gap > errors * error


def separated_by_torch(first, second, n):
    p = torch.tensor([first, second], dtype=torch.double) / 100
    return (p.diff().abs() / (p * (1 - p) / n).sum().sqrt() > 2)[0]


def separated_in_percent(first, second, n):
    variance = first * (100 - first) / n + second * (100 - second) / n
    return (first - second) ** 2 > 4 * variance


def separated_by_counts(first, second, n):
    rights = np.array([first, second]) * n / 100
    return np.abs(np.subtract(*rights)) > 2 * np.sqrt((rights * (1 - rights / n)).sum())


def percent_forgotten(p, q, n):
    return abs(p - q) > 2 * (p * (1 - p) / n + q * (1 - q) / n) ** 0.5


def overlapping_intervals(first, second, n):
    return not separated(first, second, n)


RIGHT = {
    "size": [
        size,
        size_by_numpy,
        size_by_shapes,
        lambda model: (nn.utils.parameters_to_vector(model.parameters()).numel(), float(size(model)[1])),
    ],
    "latency": [
        latency,
        latency_in_nanoseconds,
        latency_by_the_package,
        latency_warmed_up_longer,
        latency_by_timeit,
        partial(latency, reduce=lambda times: torch.tensor(times).quantile(0.5)),
        on_a_copy,
        latency_by_benchmark,
    ],
    "front": [
        front,
        front_by_numpy,
        front_by_striking_out,
        lambda table: tuple(front(table)),
        lambda table: dict.fromkeys(front(table)).keys(),
    ],
    "choose": [choose, choose_from_the_sorted, choose_rows, choose_with_numpy, choose_with_a_column],
    "separated": [
        separated,
        separated_by_torch,
        separated_in_percent,
        separated_by_counts,
        lambda first, second, n: int(separated(first, second, n)),
    ],
}
WRONG = {
    "size": [
        (partial(size, each=4, buffers=False), "parameters times four"),
        (partial(size, buffers=False), "parameters times four"),
        (size_by_modules, "`persistent=False` is in no state dict"),
        (lambda model: (size(model)[0] / 1e3, size(model)[1]), "Those are thousands"),
        (lambda model: (sum(p.numel() for p in model.parameters() if p.ndim > 1), 0), "Biases, and what batch norm"),
        (lambda model: (size(model)[0], len(model.state_dict())), "how many tensors there are"),
        (partial(size, each=1), "each has several bytes"),
        (lambda model: (*size(model), 1), "a tuple of length 3 where two things"),
        (partial(size, each=4), "Not every number has four bytes"),
        (partial(size, integers=False), "counts its batches, in an integer"),
        (partial(size, train_only=True), "A frozen parameter is a parameter, too"),
        (partial(size, count=lambda p: 1), "how many tensors there are"),
        (counted_from_the_state, "running mean and variance are buffers"),
        (lambda model: (size(model)[0], len(save(model.state_dict()))), "Add up `numel()"),
        (lambda model: (size(model)[0], size(model)[1] / 1e6), "Those are megabytes"),
        (lambda model: (size(model)[0], size(model)[1] / 1024), "Those are kilobytes"),
        (lambda model: (size(model)[0], size(model)[1] * 8), "Those are bits"),
        (lambda model: (size(model)[0] / 1e6, size(model)[1]), "Those are millions"),
        (lambda model: (f"{size(model)[0]:,}", size(model)[1]), "It is a str; give a number"),
        (lambda model: size(model)[0], "the number of parameters and the bytes"),
        (lambda model: size(model)[::-1], "the number of parameters comes first"),
        (tl.models.create("tl_resnet", 2, weights=None), "Give a function"),
    ],
    "latency": [
        (partial(latency, warm=0), "one call comes before"),
        (partial(latency, warm=0, extra=1), "The first call, which is slow, is in it"),
        (partial(latency, mode=False), "training mode"),
        (partial(latency, grad=True), "gradients were recorded"),
        (partial(latency, back=False), "in evaluation mode afterwards"),
        (lambda *given: [latency(*given), given[0].train()][0], "in training mode afterwards"),
        (partial(latency, reduce=statistics.mean), "the mean"),
        (partial(latency, reduce=min), "the quickest call"),
        (partial(latency, reduce=sum), "sum of all calls"),
        (partial(latency, factor=1), "Those are seconds"),
        (partial(latency, reduce=lambda times: np.array(times)), "Return one number"),
        (of_a_batch_of_calls, "the mean"),
        (partial(latency, factor=1e6), "Those are microseconds"),
        (partial(latency, reduce=lambda times: times[len(times) // 2]), "the slowest call"),
        (partial(latency, reduce=lambda times: times[-1]), "the last call"),
        (partial(latency, reduce=lambda times: sorted(times)[min(len(times) // 2 + 1, 6)]), "after the middle one"),
        (partial(latency, reduce=lambda times: 1e-3 / statistics.median(times)), "calls in a second"),
        (with_a_part_in_evaluation_mode, "its batch norm is in evaluation mode"),
        (partial(latency, reduce=max), "the slowest call"),
        (
            lambda model, image, repeats: latency(model, image, 10),
            "whatever `repeats` is, the network is called 11 times",
        ),
        (lambda model, image, repeats: 10.0, "called 0 times"),
        (12.5, "Give a function"),
    ],
    "front": [
        (front_of_time_alone, "c is missing"),
        (front_in_one_pass, "c is missing"),
        (partial(front, strict=all), "d is dominated"),
        (partial(front, better=operator.le), "is missing"),
        (partial(front, worse=operator.lt), "is dominated"),
        (partial(front, key=lambda row: (row["parameters"], row["latency"], row["accuracy"])), "b is missing"),
        (partial(front, key=lambda row: (*numbers(row), row["spread"])), "h is dominated"),
        (lambda table: [row["model"] for row in table], "d is dominated"),
        (lambda table: [max(table, key=lambda row: row["accuracy"])["model"]], "a is missing"),
        (lambda table: front(table) * 2, "more than once"),
        (lambda table: front(table)[0], "returns a str"),
        (lambda table: len(front(table)), "returns an int"),
        (front_taken_out, "takes rows out of the table"),
        (partial(front, key=lambda row: numbers(row)[:2]), "b is missing"),
        (lambda table: front(list({numbers(row): row for row in table}.values())), "e is missing"),
        (front_of_rows, "a list with a dict. Return names"),
        (lambda table: (name for name in front(table)), "returns a generator"),
        (["resnet50"], "Give a function"),
    ],
    "choose": [
        (
            partial(choose, spread=0),
            "a takes 19 ms with a spread of 2, which is added, and the limit is 20 ms: half of resnet50",
        ),
        (partial(choose, within=operator.lt), "exactly at a limit is within it"),
        (partial(choose, part=1), "the limit is 20 ms: half of resnet50's latency"),
        (partial(choose, tie=1), "e is as accurate and quicker"),
        (partial(choose, tie=0), "e is as accurate and quicker"),
        (partial(choose, phone="space"), "the limit is 20 ms"),
        (partial(choose, phone="time"), "f has 6.1 million parameters, and the limit is 6"),
        (partial(choose, most=6e6), "f has 6.1 million parameters"),
        (partial(choose, fallback="resnet50"), "resnet50 has 25 million parameters"),
        (partial(choose, own=1), "the limit is 20 ms: half of resnet50's latency"),
        (partial(choose, key="parameters"), "a is more accurate, and within the limits, too"),
        (choose_from_the_front, "m is within the limits; the limits alone decide"),
        (partial(choose_without_ties, use="accuracy"), "resnet50 is as accurate and quicker"),
        (partial(choose_without_ties, use="balance"), "e is as accurate and quicker"),
        (lambda table: choose(table) | {"balance": choose(table)["balance"] or "resnet50"}, "resnet50 takes 40 ms"),
        (by_heart, "That is no network of this table"),
        (lambda table: list(choose(table).values()), "Return a dictionary"),
        (choose_another_for_balance, "p is more accurate, and within the limits, too"),
        (lambda table: choose([row | {"latency": 40.0} if row["model"] == "resnet50" else row for row in table]), "60"),
        (lambda table: choose(table) | {"laptop": "a"}, "Return a dictionary"),
        (by_heart([]), "Give a function"),
    ],
    "separated": [
        (percent_forgotten, "TypeError"),
        (
            lambda p, q, n: abs(p - q) > 2 * (p / 100 * (1 - p / 100) / n) ** 0.5,
            "are difference and error both in shares",
        ),
        (partial(separated, errors=1), "Two standard errors are asked for, not 1."),
        (partial(separated, errors=2.5), "Two standard errors are asked for, not 2.5."),
        (lambda first, second, n: separated(first, second, 50_000), "whatever `n` is"),
        (lambda first, second, n: separated(first, second, n * n), "under the root"),
        (lambda p, q, n: abs(p - q) / 100 > 2 * ((p / 100 + q / 100) / n) ** 0.5, "doesn't follow p (1 - p)"),
        (lambda first, second, n: True, "It says True of all"),
        (lambda first, second, n: separated(round(first), round(second), n), "it says False"),
        (partial(separated, absolute=False), "take the absolute difference"),
        (partial(separated, add="errors"), "Add the squared errors"),
        (partial(separated, squared=False), "does n stand below each p"),
        (partial(separated, errors=3), "not 3."),
        (partial(separated, errors=1.96), "not 1.96"),
        (partial(separated, errors=2**0.5), "the two stands before the root"),
        (partial(separated, add="max"), "Both squared errors count"),
        (lambda p, q, n: abs(p - q) / 100 > 2 * (p * (100 - p) + q * (100 - q)) / 1e4 / n, "under the root"),
        (overlapping_intervals, "the other way round"),
        (lambda first, second, n: first != second, "is an error there"),
        (lambda first, second, n: abs(first - second) > 0.5, "from 0.5 points on, whatever `n` is"),
        (lambda first, second, n: False, "The error is too large"),
        (lambda first, second, n: abs(first - second) / 100, "Return True or False"),
        (True, "Give a function"),
    ],
}
test_the_bank_is_large_enough, test_right_answers_are_right, test_wrong_answers_are_refused_and_named = judges.bank(
    "ex3", RIGHT, WRONG, each=(4, 10)
)
