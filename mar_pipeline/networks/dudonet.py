"""DuDoNet: a sinogram network and an image network with a filtered back projection between them.

W.-A. Lin et al., "DuDoNet: Dual Domain Network for CT Metal Artifact Reduction", CVPR 2019.
"""

import torch
from torch import Tensor, nn

from mar_pipeline.networks.blocks import NetworkOutput
from mar_pipeline.networks.field_patterns import TypedEnds, unet_fields, view_fields
from mar_pipeline.networks.losses import dudonet_loss
from mar_pipeline.networks.scan import Scan
from mar_pipeline.networks.unet import UNet
from mar_pipeline.sample import IMAGE, LI, LI_SINOGRAM, METAL_MASK, METAL_TRACE, TARGET_SINOGRAM, UNITS_PER_MU
from simulation.physics.projector import Projector, Weighting

_GUIDED_LEVELS = 2


class DuDoNet(nn.Module):
    """Fills the metal trace, reconstructs, and refines the LI image beside the reconstruction.

        S = Tr (SLI + UNet([SLI], Tr)) + (1 - Tr) SLI,    Xhat = FBP(S),    X = XLI + UNet([Xhat, XLI])

    The paper has about 25.8 million parameters and no public code; these U-Nets have 16,747,298, their sizes are ours.
    The U-Net of the sinogram has the metal trace beside its first two levels. Outside the trace SLI is what was
    measured. The filtered back projection passes the gradient of the image on to the sinogram.

    Args:
        sinogram_width: channels of the first level of the sinogram network.
        image_width: channels of the first level of the image network.
        poolings: number of times that each halves the size.
        projector: of the scan that made the sinograms; None is the benchmark's.
        weighting: of its filtered back projection.
    """

    loss = staticmethod(dudonet_loss)
    truths = (TARGET_SINOGRAM,)
    inputs = (IMAGE, LI, METAL_MASK, LI_SINOGRAM, METAL_TRACE)

    def __init__(
        self,
        sinogram_width: int = 32,
        image_width: int = 64,
        poolings: int = 4,
        projector: Projector | None = None,
        weighting: Weighting = "benchmark",
    ) -> None:
        super().__init__()
        self.scan = Scan(projector, weighting)
        self.sinogram_unet = UNet(1, 1, sinogram_width, poolings, min(_GUIDED_LEVELS, poolings))
        self.image_unet = UNet(2, 1, image_width, poolings)

    def typed_ends(self, group_order: int) -> TypedEnds:
        """Return the fields: those of a U-Net for images, views that shift for sinograms."""
        ends = unet_fields(self.image_unet, group_order, "image_unet.")
        return ends | view_fields(self, ["sinogram_unet.*"]), ()

    def forward(
        self, image: Tensor, li: Tensor, metal_mask: Tensor, li_sinogram: Tensor, metal_trace: Tensor
    ) -> NetworkOutput:
        """Correct a batch of whole slices.

        Args:
            image: not used: its streaks are in the sinogram.
            li: linearly interpolated correction XLI, [batch, 1, height, width], network units.
            metal_mask: not used: the trace says where metal was.
            li_sinogram: sinograms after linear interpolation SLI, [batch, 1, views, bins], network units.
            metal_trace: 1 in the bins whose ray meets metal.

        Returns:
            The refined image, the reconstructed one, and the filled sinogram.

        Raises:
            InputError: shapes or device that are not the projector's.
        """
        self.scan.check((li,), (li_sinogram, metal_trace))
        filled = self.sinogram_unet(li_sinogram / UNITS_PER_MU, metal_trace)  # 255: numbers around 1, as images
        sinogram = li_sinogram + metal_trace * filled
        reconstructed = self.scan.reconstruct(sinogram)
        correction = self.image_unet(torch.cat((reconstructed, li), dim=1) / UNITS_PER_MU)
        return NetworkOutput(li + correction, (reconstructed,), sinograms=(sinogram,))
