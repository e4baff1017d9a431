"""CNNMAR: a small network makes the prior image of a classical correction.

Y. Zhang, H. Yu, "Convolutional Neural Network Based Metal Artifact Reduction in X-Ray Computed Tomography", IEEE TMI
37, 2018.
"""

import itertools

import torch
from torch import Tensor, nn

from mar_pipeline.networks.blocks import NetworkOutput, check_sizes
from mar_pipeline.networks.field_patterns import TypedEnds, chain_fields
from mar_pipeline.networks.losses import image_loss
from mar_pipeline.networks.scan import Scan
from mar_pipeline.sample import (
    HARDENING,
    IMAGE,
    LI,
    MA_SINOGRAM,
    METAL_MASK,
    METAL_TRACE,
    UNITS_PER_LINE_INTEGRAL,
    UNITS_PER_MU,
    to_mu,
    to_network,
)
from simulation.correction import replace_trace, tissue_prior
from simulation.physics.projector import Projector, Weighting


class CNNMAR(nn.Module):
    """Five convolutions over the uncorrected, the beam-hardening-corrected and the LI image, then trace replacement.

        Xcnn = XLI + conv(ReLU(conv(... [Xma, Xbhc, XLI] / 255)))

    The paper's network answers the image itself; here it answers what LI leaves to be corrected. In evaluation mode a
    tissue prior made of Xcnn is projected and replaces the metal trace, and the result is reconstructed; in training
    mode Xcnn is the result, since the prior's thresholds have no gradient.

    Args:
        width: channels between the convolutions.
        layers: number of convolutions.
        projector: of the scan that made the sinograms; None is the benchmark's.
        weighting: of its filtered back projection.
    """

    loss = staticmethod(image_loss)
    inputs = (IMAGE, LI, METAL_MASK, HARDENING, MA_SINOGRAM, METAL_TRACE)

    def __init__(
        self,
        width: int = 32,
        layers: int = 5,
        projector: Projector | None = None,
        weighting: Weighting = "benchmark",
    ) -> None:
        super().__init__()
        check_sizes(width=width, layers=layers)
        self.scan = Scan(projector, weighting)
        widths = [3, *[width] * (layers - 1), 1]
        modules: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            modules += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
        self.body = nn.Sequential(*modules[:-1])

    def typed_ends(self, group_order: int) -> TypedEnds:
        """Return the fields of its convolutions."""
        return chain_fields(self.body, "body", group_order), ()

    def forward(
        self,
        image: Tensor,
        li: Tensor,
        metal_mask: Tensor,
        hardening_corrected: Tensor,
        ma_sinogram: Tensor,
        metal_trace: Tensor,
    ) -> NetworkOutput:
        """Correct a batch of whole slices.

        Args:
            image: corrupted images Xma, [batch, 1, height, width], network units.
            li: their linearly interpolated correction XLI.
            metal_mask: 1 where metal is.
            hardening_corrected: Xbhc, as ``image``.
            ma_sinogram: measured sinograms, [batch, 1, views, bins], network units.
            metal_trace: 1 in the bins whose ray meets metal.

        Returns:
            The final image, and Xcnn as the intermediate one in evaluation mode.

        Raises:
            InputError: shapes or device that are not the projector's.
        """
        self.scan.check((image, li, metal_mask, hardening_corrected), (ma_sinogram, metal_trace))
        estimate = li + self.body(torch.cat((image, hardening_corrected, li), dim=1) / UNITS_PER_MU)
        if self.training:
            return NetworkOutput(estimate)
        prior_mu = tissue_prior(to_mu(estimate.detach().float()), metal_mask)
        _, corrected_mu = replace_trace(
            ma_sinogram / UNITS_PER_LINE_INTEGRAL, metal_trace, prior_mu, self.scan.projector, self.scan.weighting
        )
        return NetworkOutput(to_network(corrected_mu), (estimate,))
