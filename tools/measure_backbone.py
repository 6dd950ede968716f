"""Measure `tl_resnet` on domains that it has not seen, and write what the package carries about it.

    python tools/measure_backbone.py --images FOLDER --squeezenet FILE

FOLDER holds `dogs-vs-cats` and `hymenoptera_data`; FILE has SqueezeNet 1.1's ImageNet weights. Without the two, the
sets of the package are measured alone. Penalties and learning rates are chosen on the training and validation sets; the
test set is read once. Writes the table in the model card, and `tl_resnet_transfer.json` for the lessons.
"""

import argparse
import json
import re
import time
from pathlib import Path

import torch

import tlcourse as tl
from tlcourse.evaluation import mean_and_error
from tlcourse.features import domain_distance, extract_splits, fit_probe

MEASURED = Path(tl.__file__).parent / "models" / "pretrained" / "tl_resnet_transfer.json"
CARD = MEASURED.with_name("README.md")
PACKAGED = ("toypets", "digits", "radiographs", "surfaces", "landuse")
REAL = {"dogs-vs-cats": "dogs-vs-cats", "hymenoptera": "hymenoptera_data"}
TRAIN = 200  # images of a packaged set: few, as a learner has
SEEDS = (0, 1, 2)
EPOCHS = 15
# Highest learning rates to choose from on the validation set: a pre-trained network moves less than a new one.
RATES = {"fine-tuned": (1e-3, 3e-3), "scratch": (2e-3, 6e-3)}


def load(name, folder, seed):
    """One domain as splits: real images whole; of the package's sets few training images, others for each seed."""
    if name in REAL:
        return tl.data.from_folder(folder / REAL[name])
    splits = tl.data.load(name)
    most = {"train": TRAIN, "val": 100, "test": 800}
    return splits.take(**{part: min(n, len(getattr(splits, part))) for part, n in most.items()}, seed=seed)


def build(kind, splits, seed, squeezenet=None):
    """A new model, and the splits with its preprocessing: pre-trained, random, or the reference."""
    torch.manual_seed(seed)
    if kind == "SqueezeNet probe":
        model = tl.models.create("squeezenet1_1", len(splits.classes), weights=squeezenet)
    else:
        weights = None if kind in ("random", "scratch") else "default"
        model = tl.models.create("tl_resnet", len(splits.classes), weights=weights)
    return model.to(memory_format=torch.channels_last), splits.for_model(model)


def probe(kind, name, seed, options):
    """Test accuracy of a linear probe on the training set, the images that the other ways learn from too."""
    model, splits = build(kind, load(name, options.images, seed), seed, options.squeezenet)
    train, _, test = extract_splits(model, splits)
    return fit_probe(train, seed=seed).evaluate(test).accuracy


def trained(kind, name, seed, options):
    """Test accuracy after training all of it, at the learning rate that does best on the validation set."""
    results = []
    precision = "bfloat16" if tl.get_runtime().bf16 else "float32"
    for lr in RATES[kind]:
        model, splits = build(kind, load(name, options.images, seed), seed)
        loaders = splits.loaders(32, seed=seed)
        groups = tl.models.param_groups(model, lr, layer_decay=0.8 if kind == "fine-tuned" else 1.0)
        optimizer = torch.optim.AdamW(groups, weight_decay=0.05)
        rates, steps = [group["lr"] for group in groups], options.epochs * len(loaders.train)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps, pct_start=0.2)
        history = tl.train.fit(
            model, loaders, optimizer, epochs=options.epochs, scheduler=scheduler, precision=precision
        )
        results.append((history.best.val_accuracy, -history.best.val_loss, model, loaders))
    *_, model, loaders = max(results, key=lambda result: result[:2])
    return tl.train.evaluate(model, loaders.test).accuracy


def domains(options):
    """Profile and gap of every domain, and what each way of using the backbone reaches there."""
    facts = {"profile": {}, "gap": {}, "gain": {}, "images": {}, "classes": {}, "epochs": {}}
    if options.only is not None:
        facts |= json.loads(MEASURED.read_text(encoding="utf-8"))
    for name in [*(REAL if options.images else ()), *PACKAGED] if options.only is None else options.only:
        start = time.perf_counter()
        model, splits = build("probe", load(name, options.images, 0), 0)
        facts["gap"][name] = {r["stage"]: r["gap"] for r in domain_distance.domain_gap(model, splits.plain().train)}
        facts["profile"][name] = {r["stage"]: r["test"] for r in domain_distance.depth_profile(model, splits)}
        seeds = SEEDS[:1] if name in REAL else SEEDS
        gain = {kind: [probe(kind, name, seed, options) for seed in seeds] for kind in ("random", "probe")}
        gain |= {kind: [trained(kind, name, seed, options) for seed in seeds] for kind in RATES}
        if options.squeezenet and name in (*REAL, "toypets", "digits"):
            gain["SqueezeNet probe"] = [probe("SqueezeNet probe", name, 0, options)]
        facts["gain"][name] = gain
        facts["images"][name] = {part: len(getattr(splits, part)) for part in ("train", "val", "test")}
        facts["classes"][name] = len(splits.classes)
        facts["epochs"][name] = options.epochs
        MEASURED.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")  # kept if the run stops
        print(f"{name}: {json.dumps(gain)} {time.perf_counter() - start:.0f} s", flush=True)
    return facts


@torch.inference_mode()
def speed(batch=50):
    """Images per second in float32 at 64 x 64: the fastest of 40 batches, since other work only slows them down."""
    model = tl.models.create("tl_resnet").eval().to(memory_format=torch.channels_last)
    images, best = torch.randn(batch, 3, 64, 64).contiguous(memory_format=torch.channels_last), 0.0
    for _ in range(40):
        start = time.perf_counter()
        model(images)
        best = max(best, batch / (time.perf_counter() - start))
    return round(best)


def show(values):
    """Mean and standard error, or the one value."""
    return "{:.3f} ± {:.3f}".format(*mean_and_error(values)) if len(values) > 1 else f"{values[0]:.3f}"


def markdown(rows):
    """Rows of dictionaries as a Markdown table; a cell that a row lacks is a dash."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns), *([str(row.get(column, "–")) for column in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def report(facts):
    """The model card's section about other domains."""
    gains = [
        {"domain": name, "training images": facts["images"][name]["train"], "test": facts["images"][name]["test"]}
        | {"epochs": facts["epochs"][name]}
        | {kind: show(values) for kind, values in gain.items()}
        for name, gain in facts["gain"].items()
    ]
    depth = [{"domain": n} | {s: f"{a:.3f}" for s, a in p.items()} for n, p in facts["profile"].items()]
    gaps = [{"domain": n} | {s: f"{g:.2f}" for s, g in p.items()} for n, p in facts["gap"].items()]
    return "\n\n".join(
        (
            "Inference in float32: {images_per_second:,} images/s on {threads} cores.".format(**facts["speed"]),
            "Test accuracy, mean and standard error over seeds where there are several:",
            markdown(gains),
            "Test accuracy of a linear probe on each stage's output:",
            markdown(depth),
            "Domain gap by stage (`tl.features.domain_gap`):",
            markdown(gaps),
        )
    )


def main() -> None:
    """Read the command line, measure, and write the card's table and the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="folder with dogs-vs-cats and hymenoptera_data")
    parser.add_argument("--squeezenet", type=Path, help="file with SqueezeNet 1.1's ImageNet weights")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of fine-tuning and of training from scratch")
    parser.add_argument("--only", nargs="*", metavar="DOMAIN", help="measure these again, keep the others as stored")
    options = parser.parse_args()
    tl.setup()
    images_per_second = speed()
    print(f"{images_per_second:,} images/s, {torch.get_num_threads()} threads", flush=True)
    facts = domains(options)
    facts["speed"] = {"images_per_second": images_per_second, "threads": torch.get_num_threads()}
    MEASURED.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    card = CARD.read_text(encoding="utf-8")
    begin, end = "<!-- measured -->", "<!-- /measured -->"
    new = re.sub(f"{begin}.*{end}", lambda _: f"{begin}\n\n{report(facts)}\n\n{end}", card, flags=re.DOTALL)
    if new == card:
        raise SystemExit(f"{CARD} has no place for the table between {begin} and {end}.")
    CARD.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
