"""The networks by name: `NETWORKS[name]()` is the published configuration.

Those for other tasks than metal artifact reduction say so by their attribute ``task``.
"""

from torch import nn

from mar_pipeline.networks.acdnet import ACDNet
from mar_pipeline.networks.blocks import NetworkOutput
from mar_pipeline.networks.classifiers import RotationCNN, StrictRotationCNN
from mar_pipeline.networks.cnnmar import CNNMAR
from mar_pipeline.networks.dicdnet import DICDNet
from mar_pipeline.networks.dudonet import DuDoNet
from mar_pipeline.networks.indudonet import InDuDoNet, InDuDoNetPlus
from mar_pipeline.networks.inpainting_unet import InpaintingUNet
from mar_pipeline.networks.oscnet import OSCNet, OSCNetPlus
from mar_pipeline.networks.rcdnet import RCDNet
from mar_pipeline.networks.unet import ResidualUNet

__all__ = ["NETWORKS", "NetworkOutput"]

NETWORKS: dict[str, type[nn.Module]] = {
    "unet": ResidualUNet,
    "dicdnet": DICDNet,
    "oscnet": OSCNet,
    "oscnet_plus": OSCNetPlus,
    "acdnet": ACDNet,
    "indudonet": InDuDoNet,
    "indudonet_plus": InDuDoNetPlus,
    "dudonet": DuDoNet,
    "cnnmar": CNNMAR,
    "rcdnet": RCDNet,
    "inpainting_unet": InpaintingUNet,
    "cnn": RotationCNN,
    "strict_cnn": StrictRotationCNN,
}
