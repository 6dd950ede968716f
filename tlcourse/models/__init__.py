"""Models: create them by name, see their stages, freeze and unfreeze, and give each stage its learning rate."""

from tlcourse.models import tl_resnet as _tl_resnet  # noqa: F401  (registers the embedded backbone with timm)
from tlcourse.models.factory import create
from tlcourse.models.heads import PARALLEL, head, head_name, head_names, replace_head, unwrap_model
from tlcourse.models.optimizer_groups import (
    NO_DECAY,
    check_optimizer,
    extend_optimizer,
    group_table,
    groups_beside,
    param_groups,
)
from tlcourse.models.stage import (
    NORMS,
    Stage,
    count,
    freeze,
    keep_frozen,
    stages,
    summary,
    train_mode,
    unfreeze,
    unfreeze_from,
    unfreeze_order,
)
from tlcourse.models.stage_rules import infer_stages
from tlcourse.models.weights import load_weights, read_weights

__all__ = ["create", "load_weights", "read_weights"]
__all__ += ["PARALLEL", "head", "head_name", "head_names", "replace_head", "unwrap_model"]
__all__ += ["NORMS", "Stage", "count", "freeze", "infer_stages", "keep_frozen", "stages", "summary"]
__all__ += ["train_mode", "unfreeze", "unfreeze_from", "unfreeze_order"]
__all__ += ["NO_DECAY", "check_optimizer", "extend_optimizer", "group_table", "groups_beside", "param_groups"]
