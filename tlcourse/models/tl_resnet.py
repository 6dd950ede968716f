"""The embedded backbone: a small ResNet for 64 x 64 images, registered with timm as `tl_resnet`."""

from pathlib import Path

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from tlcourse.preprocessing import IMAGENET_MEAN, IMAGENET_STD

WEIGHTS = Path(__file__).parent / "pretrained" / "tl_resnet.safetensors"

LAYERS = (1, 1, 2, 2)  # blocks in each stage

CFG = {
    "file": str(WEIGHTS),
    "num_classes": 200,  # Tiny ImageNet's
    "input_size": (3, 64, 64),
    "pool_size": (4, 4),
    "crop_pct": 1.0,
    "interpolation": "bilinear",
    "mean": IMAGENET_MEAN,
    "std": IMAGENET_STD,
    "first_conv": "conv1",
    "classifier": "fc",
    "license": "mit",
}
default_cfgs = generate_default_cfgs({"tl_resnet": CFG})  # `register_model` looks for this name


class TLResNet(ResNet):
    """ResNet-18 at half width, with a stem that halves the image once instead of twice.

    At 64 pixels the usual stem (7 x 7 convolution, then max-pool) would leave 2 x 2 positions for the last stage.
    One 3 x 3 convolution with stride 2 leaves 4 x 4, and costs less than the three convolutions of a deep stem.
    """

    def __init__(self, block=BasicBlock, layers=LAYERS, channels=(32, 64, 128, 256), in_chans=3, **kwargs):
        # timm's plain stem always has 64 channels; its deep stem takes a width, and is replaced below.
        super().__init__(
            block, layers, channels=channels, in_chans=in_chans, stem_type="deep", stem_width=channels[0] // 2, **kwargs
        )
        self.conv1 = nn.Conv2d(in_chans, channels[0], 3, stride=2, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.maxpool = nn.Identity()
        for info, reduction in zip(self.feature_info, (2, 2, 4, 8, 16), strict=True):
            info["reduction"] = reduction


@register_model
def tl_resnet(pretrained=False, **kwargs):
    """Build the embedded backbone; `pretrained=True` loads the weights that the package carries.

    Shapes: images `(N, 3, 64, 64)` give logits `(N, 200)`, features `(N, 256)`.
    """
    return build_model_with_cfg(TLResNet, "tl_resnet", pretrained, **kwargs)
