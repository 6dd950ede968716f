"""Models: create them by name, see their stages, freeze and unfreeze, and give each stage its rate."""

from tlcourse.models import tl_resnet as _tl_resnet  # noqa: F401  (registers the embedded backbone with timm)
from tlcourse.models.freezing import gradual_plan, keep_frozen
from tlcourse.models.groups import extend_optimizer, group_table, param_groups
from tlcourse.models.heads import head, head_name, head_names, replace_head
from tlcourse.models.loading import load_weights, read_weights
from tlcourse.models.outline import outline
from tlcourse.models.stages import (
    Stage,
    count,
    freeze,
    stages,
    summary,
    train_mode,
    unfreeze,
    unfreeze_from,
)
from tlcourse.models.zoo import create

__all__ = [
    "Stage",
    "count",
    "create",
    "extend_optimizer",
    "freeze",
    "gradual_plan",
    "group_table",
    "head",
    "head_name",
    "head_names",
    "keep_frozen",
    "load_weights",
    "outline",
    "param_groups",
    "read_weights",
    "replace_head",
    "stages",
    "summary",
    "train_mode",
    "unfreeze",
    "unfreeze_from",
]
