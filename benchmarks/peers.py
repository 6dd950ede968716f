"""The contestants of `training.py`: one fine-tuning, for this package and each peer as its documentation shows.

A contestant imports what it needs, then starts the clock, trains, and returns its own validation accuracy after each
epoch. Checkpoints, logs, progress bars and sanity checks are off for all.
"""

import tempfile

import torch
from torch import nn
from torch.nn import functional as F
from training_work import MEAN, MOMENTUM, SCALE, STD, Contestant, Job, resize


def tlcourse(job: Job) -> list[float]:
    """This package."""
    import tlcourse as tl

    job.watch.start()
    tl.setup(device=job.device, seed=job.seed)
    preprocessing = tl.preprocessing.Preprocessing(job.work.size, resize(job.work.size), MEAN, STD)
    splits = tl.data.from_folder(job.folder, model=preprocessing, augment={"scale": SCALE})
    loaders = splits.loaders(job.work.batch, workers=job.workers, seed=job.seed)
    told = {} if job.precision == "default" else {"precision": job.precision}
    history = tl.train.fit(job.model.to(job.device), loaders, job.sgd(), epochs=job.work.epochs, **told)
    return history.column("val_accuracy")


def plain(job: Job) -> list[float]:
    """The loop of most tutorials, and of the chapter that the course follows."""
    job.watch.start()
    train, val = job.loader("train"), job.loader("val")
    model, device = job.model.to(job.device), job.device
    criterion, optimizer, accuracies = nn.CrossEntropyLoss(), job.sgd(), []
    for _ in range(job.work.epochs):
        model.train()
        loss_sum, right, seen = 0.0, 0, 0
        for images, labels in train:
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            with job.autocast():
                outputs = model(images)
                loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()
            loss_sum += loss.item() * len(images)
            right += (outputs.argmax(1) == labels).sum().item()
            seen += len(labels)
        model.eval()
        right = seen = 0
        with torch.no_grad(), job.autocast():
            for images, labels in val:
                outputs = model(images.to(device))
                right += (outputs.argmax(1) == labels.to(device)).sum().item()
                seen += len(labels)
        accuracies.append(right / seen)
    return accuracies


def fastai(job: Job) -> list[float]:
    """fastai's Learner, after its vision tutorial; the flip is the item transform, the cheapest that it has."""
    import fastai.vision.all as fv

    def watched(parameters, **options):
        wrapper = fv.OptimWrapper(parameters, opt=torch.optim.SGD, momentum=MOMENTUM, **options)
        job.watch.follow(wrapper.opt)
        return wrapper

    job.watch.start()
    loaders = fv.ImageDataLoaders.from_folder(
        job.folder,
        valid="val",
        item_tfms=[fv.RandomResizedCrop(job.work.size, min_scale=SCALE[0]), fv.FlipItem()],
        batch_tfms=[fv.Normalize.from_stats(MEAN, STD)],
        bs=job.work.batch,
        device=job.device,
        **({} if job.workers is None else {"num_workers": job.workers}),
    )
    learner = fv.Learner(loaders, job.model, loss_func=fv.CrossEntropyLossFlat(), opt_func=watched, metrics=fv.accuracy)
    if job.precision == "bfloat16":
        learner.to_bf16()
    with learner.no_bar(), learner.no_logging():
        learner.fit(job.work.epochs, job.work.lr)
    return [float(row[-1]) for row in learner.recorder.values]


def lightning(job: Job) -> list[float]:
    """Lightning's Trainer, after "Lightning in 15 minutes"."""
    import lightning as L

    accuracies: list[float] = []

    class Classifier(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = job.model

        def training_step(self, batch, _):
            images, labels = batch
            loss = F.cross_entropy(self.model(images), labels)
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch, _):
            images, labels = batch
            right = (self.model(images).argmax(1) == labels).float().mean()
            self.log("val_accuracy", right, on_epoch=True, batch_size=len(labels))

        def on_validation_epoch_end(self):
            accuracies.append(self.trainer.callback_metrics["val_accuracy"].item())

        def configure_optimizers(self):
            return job.sgd(self.parameters())

    job.watch.start()
    trainer = L.Trainer(
        max_epochs=job.work.epochs,
        accelerator="gpu" if job.device.type == "cuda" else "cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **({"precision": "bf16-mixed"} if job.precision == "bfloat16" else {}),
    )
    trainer.fit(Classifier(), job.loader("train"), job.loader("val"))
    return accuracies


def transformers(job: Job) -> list[float]:
    """transformers' Trainer, after its guide to image classification; the model returns loss and logits."""
    from transformers import Trainer, TrainingArguments

    class Classifier(nn.Module):
        def __init__(self, model: nn.Module):
            super().__init__()
            self.model = model

        def forward(self, pixel_values, labels=None):
            logits = self.model(pixel_values)
            loss = None if labels is None else F.cross_entropy(logits, labels)
            return {"loss": loss, "logits": logits}

    def collate(examples):
        images, labels = zip(*examples, strict=True)
        return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}

    def right(prediction):
        return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}

    job.watch.start()
    with tempfile.TemporaryDirectory() as output:
        arguments = TrainingArguments(
            output_dir=output,
            num_train_epochs=job.work.epochs,
            per_device_train_batch_size=job.work.batch,
            per_device_eval_batch_size=job.work.batch,
            learning_rate=job.work.lr,
            lr_scheduler_type="constant",  # its default rate falls to 0 ...
            max_grad_norm=0.0,  # ... and its default clips gradients: nobody else does
            eval_strategy="epoch",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            label_names=["labels"],
            bf16=job.precision == "bfloat16",
            use_cpu=job.device.type == "cpu",
            dataloader_num_workers=job.workers or 0,
            dataloader_persistent_workers=bool(job.workers),
            dataloader_pin_memory=job.device.type == "cuda",
            seed=job.seed,
        )
        trainer = Trainer(
            Classifier(job.model),
            arguments,
            data_collator=collate,
            train_dataset=job.dataset("train"),
            eval_dataset=job.dataset("val"),
            compute_metrics=right,
            optimizers=(job.sgd(), None),
        )
        trainer.train()
    return [row["eval_accuracy"] for row in trainer.state.log_history if "eval_accuracy" in row]


def timm(job: Job) -> list[float]:
    """timm's datasets, loaders, optimizer factory and meters in the loop of its training script."""
    from timm.data import create_dataset, create_loader
    from timm.optim import create_optimizer_v2
    from timm.utils import AverageMeter, accuracy

    job.watch.start()
    size, model = job.work.size, job.model.to(job.device)
    common = {
        "input_size": (3, size, size),
        "batch_size": job.work.batch,
        "interpolation": "bilinear",
        "mean": MEAN,
        "std": STD,
        "num_workers": job.workers or 0,
        "persistent_workers": bool(job.workers),
        "pin_memory": job.device.type == "cuda",
        "device": job.device,
    }
    train_set = create_dataset("", root=job.folder, split="train", is_training=True, batch_size=job.work.batch)
    train = create_loader(train_set, is_training=True, scale=SCALE, color_jitter=None, **common)
    val_set = create_dataset("", root=job.folder, split="val", batch_size=job.work.batch)
    val = create_loader(val_set, crop_pct=size / resize(size), **common)
    optimizer = create_optimizer_v2(model, opt="momentum", lr=job.work.lr, momentum=MOMENTUM, weight_decay=0.0)
    job.watch.follow(optimizer)
    criterion, accuracies = nn.CrossEntropyLoss(), []
    for _ in range(job.work.epochs):
        model.train()
        losses = AverageMeter()
        for images, labels in train:
            with job.autocast():
                loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.update(loss.item(), len(labels))
        model.eval()
        top1 = AverageMeter()
        with torch.no_grad(), job.autocast():
            for images, labels in val:
                top1.update(accuracy(model(images), labels)[0].item(), len(labels))
        accuracies.append(top1.avg / 100)
    return accuracies


CONTESTANTS = {
    "tlcourse": Contestant("tlcourse", tlcourse, "tlcourse", None),
    "plain": Contestant("plain loop", plain, "torchvision"),
    "fastai": Contestant("fastai's Learner", fastai, "fastai"),
    "lightning": Contestant("Lightning's Trainer", lightning, "lightning"),
    "transformers": Contestant("transformers' Trainer", transformers, "transformers"),
    "timm": Contestant("timm's loop", timm, "timm"),
}
