"""All that the doctor can find, in plain words: each finding's name, what happens and why it matters, and the fix.

A name may have variants behind a slash: `labels/empty` is shown as `labels`, and has its fix where it has none of its
own. Checks fill in what stands in braces.
"""

import re

TEXT = """
# any check
check-failed: The check {check} could not be made. Fix: The other checks ran. Please report it, with this line.
syntax: This is not Python: it stops here before it runs. Fix: Correct this line, or the one before it.
# scripts, and both scripts and set-ups in memory
softmax-before-cross-entropy: Cross-entropy applies softmax itself, and here it is applied twice: gradients get small
    and stay so. Fix: Give cross-entropy the logits, and apply softmax only where you show probabilities.
foreign-parameters/head: The head is replaced after the optimizer was built with the old one: the new one never moves.
head-frozen/with-the-rest: Everything is frozen after the head was replaced: the new head keeps its random values.
softmax-before-cross-entropy/relu: The network ends in ReLU: no logit is below 0. Fix: Take the last ReLU out.
softmax-before-cross-entropy/sigmoid: This loss applies the sigmoid itself, and here it is applied twice: gradients get
    small and stay so. Fix: Take the sigmoid out of the network, and apply it only where you show probabilities.
softmax-before-cross-entropy/sigmoid-first: The network ends in a sigmoid: all logits lie between 0 and 1, and the loss
    stays high. Fix: Take the sigmoid out: cross-entropy wants logits.
frozen-random: The frozen part has random weights, and frozen they stay: its features mean nothing. Fix: Load weights,
    `weights="DEFAULT"`, or train the whole network.
not-in-optimizer/unfrozen-later: This unfreezes parameters that the optimizer does not hold: they never move. Fix: Hand
    them over, `optimizer.add_param_group({{"params": ...}})`, or build the optimizer again here.
several-schedulers: Several schedulers were built on one optimizer; each rewrote its learning rates. Fix: Build a new
    optimizer for each scheduler that you try; chain schedulers with SequentialLR.
moments-forgotten: The optimizer is built anew in every epoch: it forgets its momentum and averages each time.
    Fix: Build it once, before the loop, and change its rate with a scheduler.
deprecated/pretrained: `pretrained=True` is the old spelling, and newer versions of torchvision will refuse it. Fix: For
    the same weights, write `weights="IMAGENET1K_V1"`; `weights="DEFAULT"` are newer ones.
deprecated/gone: Newer versions no longer have this: the script stops here with an error. Fix: Write {instead}.
deprecated/verbose: `verbose` is gone: newer PyTorch raises a TypeError. Fix: Print `scheduler.get_last_lr()` instead.
deprecated/amp: `torch.cuda.amp` is deprecated. Fix: Use `torch.amp`.
pickle/save: A whole model is saved: a pickle, which needs the same source files. Fix: Save `model.state_dict()`.
not-called: Without brackets this names the method and does not call it: nothing happens. Fix: Write `{call}`.
not-called/true: Without brackets this names the function and does not call it: the condition is always true. Fix: Write
    `torch.cuda.is_available()`.
pickle/refused: The file holds a whole model, which `torch.load` has refused since PyTorch 2.6. Fix: Save
    `model.state_dict()`, and load that into a new model; for a file that you trust, set weights_only=False.
pickle/load: This runs whatever code the file holds. Fix: Leave weights_only at True, or use safetensors.
augmented-evaluation: {part} is augmented: what is measured changes from time to time. Fix: Give it the evaluation
    transform: resize, crop at the centre, ToTensor, Normalize.
augmented-evaluation/split: Both parts share one data set, and its training transform `{transform}`.
    Fix: Make two data sets over the same files, each with its transform, and take the indices of one split from each.
shared-transform: The parts of this split share one data set, `{data}`: the transform that one is given is that of all.
    Fix: Make two data sets over the same files, each with its transform, and take the indices of one split from each.
shared-transform/part: A part of a split has no transform of its own: nothing reads this one.
not-normalised/never: {pipeline} does not normalise, and the weights are pre-trained.
not-normalised/by-half: {pipeline} normalises by 0.5; most weights were trained with ImageNet's mean.
sizes-differ: Resize({size}) sets the shorter side alone: images that are not square cannot become one batch. Fix: Add
    `CenterCrop({size})`, or give both sides, `Resize(({size}, {size}))`.
input-size/inception: Inception v3 takes 299 pixels; at 224 its second classifier stops the training. Fix: Write 299.
transform-order: {steps} comes before {conversion}, and works on tensors only. Fix: Put it after.
unshuffled-training: Training images are sorted by class: each batch pulls towards one class. Fix: Set shuffle=True.
frozen-statistics-move/train: {part} is frozen, and `train()` puts its batch norms into training mode: their
    statistics move. Fix: Call `tl.models.train_mode(model)` instead, or `.eval()` on the frozen batch norms afterwards.
frozen-statistics-move/born: {part} is frozen, and a new network is in training mode: its batch norms' statistics move.
frozen-statistics-move/head-only: The optimizer has the head alone, and `train()` puts the batch norms below it into
    training mode: their statistics move, and the features with them.
training-mode/loop: The model is measured without `eval()`: dropout drops, and batch norm uses the batch. Fix: Call
    `{model}.eval()` in front of this loop, and `train()` again after it.
training-mode/left: From here on the model trains in evaluation mode: nothing drops, and batch norms keep their
    statistics. Fix: Call `{model}.train()` at the beginning of each epoch.
no-zero-grad: Gradients are never set to zero, without `zero_grad()`: each step adds up those of all batches before.
    Fix: Call `optimizer.zero_grad()` once for every `optimizer.step()`, before `backward()`.
no-zero-grad/outside: `zero_grad()` stands outside the loop over batches: each step adds up the gradients before it.
no-step: There is no `optimizer.step()`: nothing is learnt. Fix: Call `optimizer.step()` after `backward()`.
zeroed-before-step: Gradients are zeroed between `backward()` and `step()`: nothing is learnt. Fix: Zero after `step()`.
graph-kept: The loss is summed with its graph: memory grows with every batch. Fix: Add `loss.item()` or `loss.detach()`.
best-not-copied: `state_dict()` hands out the weights themselves, and training goes on changing them: what is loaded at
    the end are the last weights, not the best. Fix: Keep a copy, `copy.deepcopy(model.state_dict())`.
best-not-copied/model: This is the same model under a second name, and training goes on changing it. Fix: Keep a copy,
    `copy.deepcopy(model)`, or one of its weights, `copy.deepcopy(model.state_dict())`.
test-selects: The epoch is chosen by its score on the test set, which then says too much. Fix: Choose by validation.
scheduler-first: The scheduler is stepped before the optimizer: the first learning rate is skipped. Fix: Call
    `scheduler.step()` after it: at the end of the epoch, or of the batch where it counts batches.
scheduler-interval/counts-batches: {kind} counts batches and is stepped once per epoch: it never gets beyond its
    beginning. Fix: Step it after every `optimizer.step()`, or give it the number of epochs as its length.
scheduler-interval/counts-epochs: {kind} counts epochs and is stepped after every batch: it soon ends, and then raises
    an error or climbs again. Fix: Give it the run's steps, epochs * len(train_loader), or step it once per epoch.
scheduler-interval/decayed: {kind} counts epochs and is stepped after every batch: the learning rate is soon gone. Fix:
    Step it once per epoch, or let step_size, milestones or gamma count batches.
scheduler-interval/plateau: The plateau scheduler is stepped more than once per epoch: its patience counts calls, not
    epochs. Fix: Step it once per epoch, with the validation loss or accuracy.
plateau-constant: The plateau scheduler is fed a constant: it lowers the rate every few epochs, for no reason. Fix: Once
    per epoch, pass the validation loss with mode='min', or the validation accuracy with mode='max'.
plateau-constant/no-number: The plateau scheduler gets no number: none raises a TypeError, and NaN is never better.
# schedulers in memory
scheduler-interval/past-its-end: The cosine was stepped past its end, and the learning rate climbs again. Fix: T_max
    must count what you step after: all batches of the run (as `tl.train.fit` does), or its epochs.
scheduler-interval/unknown: {kind} counts epochs: step it once per epoch. Fix: For `tl.train.fit`:
    `tl.train.Schedule(scheduler, "epoch")`, or give it {run} steps as its length.
scheduler-interval/too-short: {kind} ends before the run: a one-cycle then raises an error, a cosine climbs again. Fix:
    Give it {run} steps as its length, fewer where you accumulate gradients.
scheduler-interval/too-long: The run ends after {share} of the schedule: the learning rate stays high. Fix: Give {kind}
    {run} steps as its length, fewer where you accumulate gradients.
scheduler-not-stepped: The scheduler was never stepped: the rate stays. Fix: Call `scheduler.step()`, unless it is new.
foreign-scheduler: The scheduler changes the rates of another optimizer. Fix: Build it again after the optimizer.
plateau-direction: The plateau scheduler takes {measurement} the wrong way round. Fix: Pass the validation loss with
    mode='min', or the validation accuracy with mode='max'.
# the model and its optimizer
not-finite: The model holds NaN or infinite values. Fix: Load the weights again; lower the rate, or clip gradients.
frozen-random/layers: Layers below the head are frozen, and look newly drawn: they stay random. Fix: Load their weights,
    or let them train: `requires_grad_(True)`, before the optimizer is built.
all-frozen: Every parameter is frozen: nothing would change. Fix: Unfreeze the head: `tl.models.freeze(model)` does.
head-frozen: The classifier is frozen while parameters below it train. Fix: Set `requires_grad_(True)` on {head}: a new
    head keeps its random values for ever otherwise.
head-size/one-output: One output for two classes: cross-entropy needs two. Fix: Use BCEWithLogitsLoss, or two outputs.
head-size: Fewer outputs than classes. Fix: `tl.models.replace_head(model, {count})`, before the optimizer is built.
head-size/too-many: The classifier has more outputs than the data shows classes.
frozen-statistics-move: Batch-norm statistics moved in frozen stages: the features are no longer the pre-trained ones.
    Fix: Call `tl.models.train_mode(model)` in place of `model.train()`; where statistics moved, load the weights again.
frozen-statistics-move/training-mode: Frozen stages are in training mode: every batch moves their batch-norm statistics.
training-mode: The model is about to be measured in training mode. Fix: Call `model.eval()` first, or measure with
    `tl.evaluation.evaluate`, which does.
training-mode/harmless: The model is in training mode, where no layer differs. Fix: Call `model.eval()` all the same.
forward-fails: The model cannot take the data's images. Fix: Prepare them as it wants them: `data.for_model(model)`.
softmax-before-cross-entropy/log: The model ends in log-softmax; cross-entropy's own changes nothing. Fix: Take it out.
loss-wants-log-probabilities: NLLLoss wants log-probabilities, and the model gives something else: the loss has no lower
    bound. Fix: Use CrossEntropyLoss with logits, or end the model in log-softmax.
not-in-optimizer: Parameters are unfrozen, and in no group of the optimizer: they never move. Fix: Build the optimizer
    from `tl.models.param_groups(model, lr)` after unfreezing, or freeze them.
foreign-parameters: The optimizer holds parameters that are not in this model: stepping them changes nothing in it. Fix:
    Build the optimizer last: after the head was replaced, the weights loaded and the model moved.
in-optimizer-twice: Parameters are in the optimizer twice, and move twice per step. Fix: Give each to one group.
frozen-with-gradient: Frozen parameters are in the optimizer and keep an old gradient: every step still moves them. Fix:
    Set their `.grad` to None when you freeze, as `tl.models.freeze` does, or build the optimizer anew.
frozen-in-optimizer: Frozen parameters are in the optimizer: harmless until unfrozen. Fix: Right if you will unfreeze
    them.
rate/not-a-number: A learning rate is not a number. Fix: Build the optimizer anew.
rate/zero: Parameters have a learning rate of 0: they do not train. Fix: Set a rate above 0, or freeze them.
rate/high: A very high learning rate for {kind}: it destroys what was learnt. Fix: Try a hundredth of it.
rate/written-to-a-copy: `state_dict()` gives copies: this rate changes nothing. Fix: Set it in `optimizer.param_groups`.
backbone-as-fast-as-head: The pre-trained backbone trains at the learning rate of the new head, or faster. Fix: Lower
    the backbone's rates, `tl.models.param_groups(model, lr, layer_decay=0.5)`, or train the head alone first.
gradient/not-finite: Gradients are NaN or infinite: a step destroys the weights. Fix: Lower the rate, or clip gradients.
gradient/missing: Parameters got no gradient in a backward pass that reached others: they do not train. Fix: See whether
    they were unfrozen after that pass, run under `no_grad`, or play no part in the output.
frozen-moved: Parameters moved though they were frozen now and at the last look. Fix: Right if you loaded weights in
    between. Otherwise an old gradient or a second optimizer moves them.
did-not-move: Parameters train, and did not move since the last look, while others did. Fix: See whether gradients reach
    them (a `detach`, `no_grad`, an unused module), or their rate is tiny.
decay-on-norms: Norms and biases have weight decay, for no gain. Fix: Use
    `tl.models.param_groups(model, lr, weight_decay=...)`, which leaves them out.
# data
unreadable: Items of the {part} part cannot be read. Fix: Delete or replace the files, or repair the transform;
    `tlcourse doctor FOLDER` lists damaged files.
not-finite/images: The {part} part has values that are NaN or infinite: a single one makes the loss NaN. Fix: Look at
    these images and at the transform: it may divide by a deviation of 0.
not-normalised/whole-numbers: The {part} part gives whole numbers: a network works on floating-point images. Fix: End
    the transform with ToDtype(torch.float32, scale=True) and Normalize.
not-normalised: The images are not normalised as the weights were trained: features are worse. Fix: Take the transform
    from the model, `data.for_model(model)`, or from its weights, `weights.transforms()`.
not-normalised/random-weights: The images are not normalised as pre-trained weights want it; these weights look random.
input-size: The images have another size than the weights were trained at: features see another scale. Fix: Resize to
    {size}; somewhat larger is slower and often a little better.
augmented-evaluation/no-effect: The {part} part has random transforms, which changed nothing so far.
classes-differ: {a} and {b} number their classes differently. Fix: Give each part the same class folders.
labels: Labels are out of range: the loss cannot be computed, or counts a class that is not there. Fix: Number the
    classes from 0; -100 alone may mean: leave this one out.
labels/empty: Classes have no image in the {part} part: they are not learnt, or not measured. Fix: Split class by class,
    as `tl.data.from_folder` does, or take the class out.
imbalance: The {part} part is nearly all one class: accuracy hides what happens to the others. Fix: Report recall by
    class or balanced accuracy, and draw the rare classes more often or weight them.
shuffled-evaluation: The {part} loader shuffles: its answers are not in the files' order. Fix: Leave out shuffle=True.
drop-last: Some images of the {part} part are never measured. Fix: Set drop_last=False.
same-item: The same items are in {a} and in {b}: the measurement has seen its answers. Fix: Give each its own part.
same-image: The same images are in {a} and in {b}: the measurement has seen its answers. Fix: Take them out of {other};
    `tl.data.find_duplicates(data)` lists them. Frames of one film belong into one part.
# results
loss-not-finite: The training loss is not a number. Fix: Take earlier weights, a tenth of the rate; clip gradients.
loss-constant: The training loss does not move. Fix: See whether the optimizer holds what trains, at a rate above 0.
loss-rises: The training loss rises: the learning rate is probably too high. Fix: Lower it, warm up, clip gradients.
overfitting: The model does far better on the images that it trains on. Fix: More images, stronger augmentation, fewer
    unfrozen stages, weight decay, or fewer epochs.
class-never-predicted: There are classes that the model never predicts. Fix: See whether they have enough training
    images, whether labels mean the same in every part, and whether the rate was so high that the network died.
class-never-predicted/one-answer: The model predicts the same class for every image.
no-better-than-majority: The accuracy is not shown to be better than always predicting the largest class. Fix: Look at
    recall by class; train longer or with more images; measure on more images.
# folders of images
layout: The folder cannot be used as it is. Fix: Make folders `train`, `val` and `test`, with a folder for each class.
unreadable/images: Files cannot be read. Fix: Delete or replace them, or load with skip_unreadable=True.
tiny-images: Images have a side below 32 pixels: backbones see little in them. Fix: See whether they are thumbnails.
long-images: Images are far from square: a centre crop loses much of them. Fix: Look at what it cuts off.
imbalance/sizes: Classes differ much in size: accuracy hides what happens to the small ones.
few-images: Classes have fewer than 10 images: one right or wrong is a tenth of their recall. Fix: Add images.
same-image/folders: The same images are in two parts: the measurement has seen its answers. Fix: Delete them from train.
two-labels: The same images are in two classes: {classes}. Fix: See which is wrong, or whether the classes overlap.
copies: The same images are in one part more than once: a random split may separate them. Fix: Keep one of each.
# checkpoints
unreadable/weights: The weights cannot be read. Fix: Get the file again, or save the `state_dict` where it was trained.
not-finite/weights: Values are NaN or infinite: training had diverged. Fix: Use an earlier checkpoint.
all-zero: Whole weight tensors are zero: they are not trained. Fix: Save a model that has loaded weights.
constant: Whole weight tensors hold one value: they are not trained. Fix: Save a model that has loaded weights.
statistics: Batch-norm variances are negative: the file is damaged. Fix: Use an earlier checkpoint.
statistics/new: Batch norms have the statistics of a new network: it will answer nonsense in evaluation mode. Fix: Save
    the whole `state_dict` of a network that has run in training mode.
weights-only: The file holds weights alone: it does not say which model, classes or preprocessing they belong to. Fix:
    `tl.predict.save_checkpoint` writes architecture, classes and preprocessing with the weights.
checkpoint: The weights do not fit the model that the file names. Fix: Save it again with `tl.predict.save_checkpoint`.
"""


def messages() -> dict[str, tuple[str, str]]:
    """Read the text above as name -> (what happens, what to do)."""
    found = {}
    for entry in re.split(r"\n(?=\S)", re.sub("(?m)^#.*\n", "", TEXT).strip()):
        name, _, message = entry.partition(": ")
        what, _, advice = re.sub(r"\s+", " ", message).partition(" Fix: ")
        found[name] = what, advice
    return {name: (what, advice or found[name.partition("/")[0]][1]) for name, (what, advice) in found.items()}


MESSAGES = messages()
