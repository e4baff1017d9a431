"""RCDNet: rain convolutional dictionary network (Wang et al., CVPR 2020)."""

from typing import NamedTuple

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from mar_pipeline.equivariance import automatic_fields
from mar_pipeline.equivariance.fields import Fields
from mar_pipeline.equivariance.weight_space import Ends
from mar_pipeline.networks.blocks import (
    STEP_SCALE,
    ProxNet,
    SparseProxNet,
    check_sizes,
    full_precision,
    oriented_kernels,
)

_COLOURS = 3


class RainOutput(NamedTuple):
    """What RCDNet answers, in grey levels 0..255.

    Attributes:
        image: the background, Float["batch 3 H W"].
        images: the backgrounds B_0 to B_S of the stages, without the final one.
        rains: their rain layers R_1 to R_S.
    """

    image: Tensor
    images: tuple[Tensor, ...]
    rains: tuple[Tensor, ...]


class RCDNet(nn.Module):
    """Stages of proximal gradient steps on rain maps M and background B of O = B + sum over n of C_n (x) M_n.

        [B, Z] = ProxB0([O, K (x) O])
        M = ProxM1(C0^T ReLU(O - B - tau) / 10)                           in the first stage, afterwards
        M = ProxM(M - (eta_M / 10) C^T (R - (O - B)))
        R = C (x) M
        [B, Z] = ProxB([B + (eta_B / 10) (O - R - B), Z])

    and one more ProxB at the end. K is learnt; it starts with 1/9 everywhere, which gives 3x3 means summed over the
    colours. The kernels C, divided by 10, are free and shared by the stages; each has three colours. H. Wang, Q. Xie,
    Q. Zhao, D. Meng, "A model-driven deep neural network for single image rain removal", CVPR 2020. The public code
    also holds a ProxM and a step (74,529 parameters) that it never uses; they are not here.

    Args:
        stages: number of stages S.
        blocks: residual blocks of a proximal network.
        maps: number of rain maps and kernels.
        dual_channels: channels Z that go along with the background.
        kernel_size: odd width of the kernels in pixels.

    Raises:
        UsageError: a size below 1, or an even kernel.
    """

    task = "rain"
    inputs = ("image",)

    def __init__(
        self,
        stages: int = 17,
        blocks: int = 4,
        maps: int = 32,
        dual_channels: int = 32,
        kernel_size: int = 9,
    ) -> None:
        super().__init__()
        check_sizes(kernel_size, stages=stages, blocks=blocks, maps=maps, dual_channels=dual_channels)
        channels = _COLOURS + dual_channels
        self.dual = nn.Conv2d(_COLOURS, dual_channels, 3, padding=1, bias=False)
        nn.init.constant_(self.dual.weight, 1 / 9)
        kernels = oriented_kernels(maps, kernel_size).expand(_COLOURS, -1, -1, -1)
        self.initial_kernels = nn.Parameter(kernels.clone())
        self.kernels = nn.Parameter(kernels.clone())
        self.threshold = nn.Parameter(torch.tensor(1.0))
        self.map_steps = nn.Parameter(torch.full((stages - 1,), 1.0))
        self.image_steps = nn.Parameter(torch.full((stages,), 5.0))
        self.first_prox = ProxNet(channels, blocks)
        self.map_proxes = nn.ModuleList(SparseProxNet(maps, blocks) for _ in range(stages))
        self.image_proxes = nn.ModuleList(ProxNet(channels, blocks) for _ in range(stages))
        self.last_prox = ProxNet(channels, blocks)

    def forward(self, image: Tensor) -> RainOutput:
        """Take the rain out of a batch.

        Args:
            image: rainy images O, Float["batch 3 H W"], 0..255.
        """
        kernels = self.kernels / STEP_SCALE
        state = self.first_prox(torch.cat((image, self.dual(image).to(image.dtype)), dim=1))
        background = state[:, :_COLOURS]
        excess = functional.relu(image - background - self.threshold)
        maps = self.map_proxes[0](rain_maps(excess, self.initial_kernels / STEP_SCALE))
        rain = rain_layer(maps, kernels)
        backgrounds, rains = [background], [rain]
        for stage, (map_prox, image_prox) in enumerate(zip(self.map_proxes, self.image_proxes, strict=True)):
            if stage > 0:
                gradient = rain_maps(rain - (image - background), kernels)
                maps = map_prox(maps - self.map_steps[stage - 1] / STEP_SCALE * gradient)
                rain = rain_layer(maps, kernels)
                rains.append(rain)
            moved = background + self.image_steps[stage] / STEP_SCALE * (image - rain - background)
            state = image_prox(torch.cat((moved, state[:, _COLOURS:]), dim=1))
            background = state[:, :_COLOURS]
            backgrounds.append(background)
        final = self.last_prox(state)[:, :_COLOURS]
        return RainOutput(final, tuple(backgrounds), tuple(rains))

    def typed_ends(self, group_order: int) -> tuple[dict[str, Ends], tuple[str, ...]]:
        """Return what a rotation does to the layers' channels: colours are trivial, the dual channels regular.

        Rain has a direction, so nothing is asked of the rain maps.

        Args:
            group_order: t.

        Returns:
            Pattern of layers -> fields of their input and of their output; modules that are left out.
        """
        colours: Fields = (("trivial", _COLOURS),)
        dual = tuple(automatic_fields(self.dual.out_channels, group_order))
        state = (*colours, *dual)
        patterns: dict[str, Ends] = {"dual": (colours, dual)}
        patterns |= {f"{name}.*": (state, state) for name in ("first_prox", "image_proxes", "last_prox")}
        return patterns, ("map_proxes",)


def rain_layer(maps: Tensor, kernels: Tensor) -> Tensor:
    """Return the rain of the maps, R = sum over n of C_n (x) M_n in each colour, never below float32.

    Args:
        maps: Float["batch maps H W"].
        kernels: odd-sized, Float["3 maps size size"].

    Returns:
        Float["batch 3 H W"].
    """
    with full_precision(maps):
        return functional.conv2d(maps.to(kernels.dtype), kernels, padding=kernels.shape[-1] // 2)


def rain_maps(rain: Tensor, kernels: Tensor) -> Tensor:
    """Return the transpose of `rain_layer`: C^T R, one map for every kernel.

    Args:
        rain: Float["batch 3 H W"].
        kernels: odd-sized, Float["3 maps size size"].

    Returns:
        Float["batch maps H W"].
    """
    flipped = kernels.flip(-2, -1).transpose(0, 1)
    with full_precision(rain):
        return functional.conv2d(rain.to(kernels.dtype), flipped, padding=kernels.shape[-1] // 2)
