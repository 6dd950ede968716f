"""Models: create them by name, see their stages, freeze and unfreeze."""

from tlcourse.models import tl_resnet as _tl_resnet  # noqa: F401  (registers the embedded backbone with timm)
from tlcourse.models.stages import (
    Stage,
    count,
    freeze,
    param_groups,
    stages,
    summary,
    train_mode,
    unfreeze,
    unfreeze_from,
)
from tlcourse.models.zoo import create, head, head_name, load_weights, read_weights, replace_head

__all__ = [
    "Stage",
    "count",
    "create",
    "freeze",
    "head",
    "head_name",
    "load_weights",
    "param_groups",
    "read_weights",
    "replace_head",
    "stages",
    "summary",
    "train_mode",
    "unfreeze",
    "unfreeze_from",
]
