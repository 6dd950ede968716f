"""Pre-train the embedded backbone `tl_resnet` on Tiny ImageNet.

    python tools/pretrain_backbone.py --data FOLDER     # an unpacked tiny-imagenet-200
    python tools/pretrain_backbone.py                   # downloads the official archive first

The model card names the two commands that made what the package carries: a teacher with eight blocks, then a student
with six, which starts from the teacher's weights and learns from its answers. A run is saved after every epoch; the
same command continues where it stopped.
"""

import argparse
import hashlib
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from torchvision.transforms import v2

from tlcourse.models.tl_resnet import CFG, LAYERS, WEIGHTS, TLResNet

ARCHIVE = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
ARCHIVE_HASH = "md5:90528d7ca1a48142e341f4ef8d21d0de"
IMAGE_ENDINGS = {".jpeg", ".jpg", ".png", ".webp"}


def list_images(root):
    """Return the class ids, and `(path, label)` pairs for the training and the validation set.

    Both layouts are read: the official one (`train/<id>/images/*`, `val/val_annotations.txt`) and one folder per class.
    """
    wnids = sorted(folder.name for folder in (root / "train").iterdir() if folder.is_dir())
    label = {wnid: i for i, wnid in enumerate(wnids)}
    train = [(p, label[p.relative_to(root / "train").parts[0]]) for p in (root / "train").rglob("*")]
    annotations = root / "val" / "val_annotations.txt"
    if annotations.exists():
        rows = [line.split("\t")[:2] for line in annotations.read_text().splitlines()]
        val = [(root / "val" / "images" / name, label[wnid]) for name, wnid in rows]
    else:
        val = [(p, label[p.parent.name]) for p in (root / "val").rglob("*") if p.parent.name in label]
    keep = [sorted(pair for pair in part if pair[0].suffix.lower() in IMAGE_ENDINGS) for part in (train, val)]
    return wnids, *keep


def class_names(root, wnids):
    """Return a readable name for every class id, from `classes.tsv` or the official `words.txt`."""
    names = {}
    for file in ("words.txt", "classes.tsv"):
        if (root / file).exists():
            names |= dict(line.split("\t")[:2] for line in (root / file).read_text().splitlines() if "\t" in line)
    return [names.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]


def decode(pairs):
    """Read all images into one `(N, 3, 64, 64)` uint8 tensor; also return labels and a SHA-256 of the pixels."""

    def read(pair):
        with Image.open(pair[0]) as image:
            return np.asarray(image.convert("RGB").resize((64, 64)), dtype=np.uint8)

    with ThreadPoolExecutor(4) as pool:
        images = np.stack(list(pool.map(read, pairs)))
    labels = torch.tensor([label for _, label in pairs])
    digest = hashlib.sha256(images.tobytes() + labels.numpy().tobytes()).hexdigest()
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels, digest


def normalise(images):
    """Turn uint8 images into the float input that the backbone takes."""
    mean, std = (torch.tensor(CFG[key], device=images.device).view(1, 3, 1, 1) * 255 for key in ("mean", "std"))
    return ((images.float() - mean) / std).contiguous(memory_format=torch.channels_last)


def random_resized_crop_and_flip(images, size, area=(0.25, 1.0), ratio=(3 / 4, 4 / 3)):
    """Crop, resize and flip a whole batch at once: `(N, 3, H, W)` to `(N, 3, size, size)`, one crop per image."""
    n, device = len(images), images.device
    scale = torch.empty(n, device=device).uniform_(*area).sqrt()
    stretch = torch.empty(n, device=device).uniform_(math.log(ratio[0]), math.log(ratio[1])).div(2).exp()
    width, height = (scale * stretch).clamp(max=1), (scale / stretch).clamp(max=1)
    flip = torch.randint(0, 2, (n,), device=device) * 2.0 - 1
    theta = torch.zeros(n, 2, 3, device=device)
    theta[:, 0, 0], theta[:, 1, 1] = width * flip, height
    theta[:, 0, 2] = (torch.rand(n, device=device) * 2 - 1) * (1 - width)
    theta[:, 1, 2] = (torch.rand(n, device=device) * 2 - 1) * (1 - height)
    grid = F.affine_grid(theta, (n, 3, size, size), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def image_size(progress, smallest, largest):
    """Small images first, the largest for the last third: the same accuracy for about two thirds of the work."""
    return min(largest, smallest + 8 * int(progress * 1.5 * ((largest - smallest) / 8)))


def network(layers, device, weights=None):
    """Build a `tl_resnet` with so many blocks per stage; start from the tensors of a file that it also has."""
    model = TLResNet(layers=layers, num_classes=CFG["num_classes"])
    if weights is not None:
        own = model.state_dict()
        model.load_state_dict(own | {k: v for k, v in load_file(weights).items() if k in own})
    return model.to(device, memory_format=torch.channels_last)


def blocks(weights):
    """Return the number of blocks in each stage of a file of weights."""
    stages = [{k.split(".")[1] for k in load_file(weights) if k.startswith(f"layer{i}.")} for i in range(1, 5)]
    return [len(stage) for stage in stages]


def mix(images, labels, strength):
    """Blend images with others (mixup) or paste parts of them (CutMix), at random; labels become `(N, C)` shares.

    Sources: Zhang et al. 2018, mixup: beyond empirical risk minimization; Yun et al. 2019, CutMix.
    """
    classes = CFG["num_classes"]
    if not strength:
        return images, F.one_hot(labels, classes).float()
    either = v2.MixUp if torch.rand(()) < 0.5 else v2.CutMix
    return either(alpha=strength, num_classes=classes)(images, labels)


@torch.inference_mode()
def top1(model, images, labels):
    """Return the share of images whose most probable class is right."""
    model.eval()
    right = 0
    for i in range(0, len(images), 500):
        right += (model(normalise(images[i : i + 500])).argmax(1) == labels[i : i + 500]).sum().item()
    return right / len(images)


def train(args, data, work):
    """Run the recipe on `(images, labels, val_images, val_labels)` and return model and history."""
    images, labels, val_images, val_labels = data
    torch.manual_seed(args.seed)
    device = images.device
    model = network(args.layers, device, args.start)
    teacher = network(blocks(args.teacher), device, args.teacher).eval() if args.teacher else None
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]  # no weight decay on batch norm and biases
    groups = [{"params": decay, "weight_decay": args.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=args.lr, momentum=0.9, nesterov=True)
    steps = len(images) // args.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, epochs=args.epochs, steps_per_epoch=steps, pct_start=args.warm_up, cycle_momentum=False
    )
    first, history, saved = 0, [], work / "last.pt"
    if saved.exists():
        state = torch.load(saved)
        if state["args"] != recipe(args):
            raise SystemExit(f"{saved} belongs to another recipe: {state['args']}. Give another --work folder.")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first, history = state["epoch"] + 1, state["history"]
    for epoch in range(first, args.epochs):
        torch.manual_seed(args.seed * 1000 + epoch)  # an epoch is the same, resumed or not
        size, start, total = image_size(epoch / args.epochs, args.smallest, args.size), time.perf_counter(), 0.0
        model.train()
        for batch in torch.randperm(len(images))[: steps * args.batch_size].view(steps, -1).to(device):
            x = random_resized_crop_and_flip(normalise(images[batch]), size)
            x, target = mix(x, labels[batch], args.mix)
            x = x.contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=not args.float32):
                if teacher is not None:
                    with torch.no_grad():
                        target = torch.lerp(target, teacher(x).float().softmax(1), args.trust)
                loss = F.cross_entropy(model(x), target, label_smoothing=args.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()
        seconds = time.perf_counter() - start
        history.append({"epoch": epoch + 1, "size": size, "loss": float(total) / steps, "seconds": round(seconds, 1)})
        history[-1]["val_top1"] = top1(model, val_images, val_labels)
        print(json.dumps(history[-1]), flush=True)
        parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
        state = {name: part.state_dict() for name, part in parts.items()}
        torch.save(state | {"epoch": epoch, "history": history, "args": recipe(args)}, saved.with_suffix(".new"))
        saved.with_suffix(".new").replace(saved)
    return model, history


def recipe(args):
    """Return the arguments that decide the result; files of weights by their SHA-256."""
    kept = {k: v for k, v in vars(args).items() if k not in ("data", "work", "out", "device")}
    for name in ("start", "teacher"):
        kept[name] = kept[name] and hashlib.sha256(kept[name].read_bytes()).hexdigest()
    return kept


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="unpacked tiny-imagenet-200; downloaded when not given")
    parser.add_argument("--work", type=Path, default=Path("runs/pretrain"), help="where the run is saved")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--layers", type=int, nargs=4, default=list(LAYERS), help="blocks in each stage")
    parser.add_argument("--start", type=Path, help="weights to start from; blocks that the network lacks are left out")
    parser.add_argument("--teacher", type=Path, help="weights of the network whose answers are learnt too")
    parser.add_argument("--trust", type=float, default=0.5, help="share of the teacher's answer in what is learnt")
    parser.add_argument("--epochs", type=int, default=28)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1.0, help="the highest rate of the one cycle")
    parser.add_argument("--warm-up", type=float, default=0.2, help="share of the run in which the rate rises")
    parser.add_argument("--weight-decay", type=float, default=5e-5)
    parser.add_argument("--label-smoothing", type=float, default=0.1)
    parser.add_argument("--mix", type=float, default=0.0, help="strength of mixup and CutMix; 0: images as they are")
    parser.add_argument("--smallest", type=int, default=40, help="image size of the first epochs")
    parser.add_argument("--size", type=int, default=64, help="image size of the last third")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--float32", action="store_true", help="for processors without bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    root = args.data
    if root is None:
        from tlcourse.data.downloads import fetch_archive

        root = fetch_archive(ARCHIVE, ARCHIVE_HASH)  # the one folder inside
    wnids, train_files, val_files = list_images(root)
    args.work.mkdir(parents=True, exist_ok=True)
    images, labels, train_hash = decode(train_files)
    val_images, val_labels, val_hash = decode(val_files)
    print(f"{len(images):,} training and {len(val_images):,} validation images, {len(wnids)} classes", flush=True)
    if len(wnids) != CFG["num_classes"]:
        raise SystemExit(f"{root} has {len(wnids)} classes, not {CFG['num_classes']}: is it tiny-imagenet-200?")

    model, history = train(args, [t.to(args.device) for t in (images, labels, val_images, val_labels)], args.work)

    half = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous().cpu()
        for name, tensor in model.state_dict().items()
    }
    if not all(tensor.isfinite().all() for tensor in half.values()):
        raise SystemExit("a weight does not fit float16: nothing was written")
    model.load_state_dict(half)  # what is reported is what is shipped
    report = {
        "recipe": recipe(args),
        "data": {"train_images": len(images), "train_sha256": train_hash, "val_sha256": val_hash},
        "val_top1": top1(model, val_images.to(args.device), val_labels.to(args.device)),
        "val_images": len(val_images),
        "hours": round(sum(row["seconds"] for row in history) / 3600, 2),
        "torch": torch.__version__,
        "history": history,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(half, args.out, metadata={"classes": json.dumps(class_names(root, wnids))})
    report["weights_sha256"] = hashlib.sha256(args.out.read_bytes()).hexdigest()
    args.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    print(f"{args.out}: top-1 {report['val_top1']:.4f}, {args.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
