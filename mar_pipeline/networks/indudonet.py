"""InDuDoNet and InDuDoNet+: unfolded dual-domain networks.

H. Wang et al., "InDuDoNet: An Interpretable Dual Domain Network for CT Metal Artifact Reduction", MICCAI 2021;
"InDuDoNet+: A deep unfolding dual domain network for metal artifact reduction in CT images", Medical Image Analysis 85,
2023. Sizes and constants are those of their public code.
"""

from collections.abc import Sequence
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from mar_pipeline.equivariance.fields import automatic_fields
from mar_pipeline.equivariance.weight_space import Ends
from mar_pipeline.networks.blocks import (
    STEP_SCALE,
    NetworkOutput,
    ProxNet,
    ResBlock,
    check_sizes,
    dual_convolution,
    initial_state,
)
from mar_pipeline.networks.field_patterns import IMAGE_FIELDS, TypedEnds, chain_fields, unet_fields, view_fields
from mar_pipeline.networks.losses import dual_domain_loss
from mar_pipeline.networks.recomputation import recomputed
from mar_pipeline.networks.scan import Scan
from mar_pipeline.networks.unet import UNet
from mar_pipeline.sample import (
    IMAGE,
    LI,
    LI_SINOGRAM,
    MA_SINOGRAM,
    METAL_MASK,
    METAL_TRACE,
    NMAR,
    NMAR_SINOGRAM,
    PRIOR,
    TARGET_SINOGRAM,
)
from simulation.physics.projector import Projector

Start = Literal["li", "nmar"]

_LEAST_NORMALISER = 0.1
"""Where Ybar is smaller, as beside the body, nothing is divided by it."""


class DualDomainNetwork(nn.Module):
    """Stages of proximal gradient steps on a normalised sinogram S and an image X; a subclass makes the prior image Xs.

    P is the projector and P* its weighted adjoint, both in network units (see `Scan`), Tr is 1 off the metal trace, and
    Ybar = P(ReLU(BN(Xs))) normalises sinograms. The stages minimise |Ybar S - P X|^2 + alpha |Tr (Ybar S - Sma)|^2:

        [X, Zx] = ProxX0([XLI, box(XLI)]),  [S, Zs] = ProxS0([SLI, box(SLI)]), then in each stage
        G_S = Ybar (Ybar S - P X) + alpha Tr Ybar (Ybar S - Sma),    [S, Zs] = ProxS([S - (eta_S / 10) G_S, Zs])
        G_X = P*(P X - Ybar S), the new S and the old X,             [X, Zx] = ProxX([X - (eta_X / 10) G_X, Zx])

    The projector computes in float32; under autocast the proximal networks do not, but their image and sinogram do.

    Args:
        stages: number of stages.
        blocks: residual blocks of a proximal network.
        dual_channels: channels that go along with the image, and with the sinogram, in the proximal networks.
        projector: of the scan that made the sinograms; None is the benchmark's.
        recompute: in training keep no more of a stage than its result and compute it once more in the backward pass,
            for a third more time; the weights are the same.
        sinogram_blocks: residual blocks of the proximal networks of sinograms; None has as many as those of images.
        dilations: of the residual blocks of images, which take them in turn; the published network has none.
    """

    loss = staticmethod(dual_domain_loss)
    truths = (TARGET_SINOGRAM,)

    def __init__(
        self,
        stages: int,
        blocks: int,
        dual_channels: int,
        projector: Projector | None,
        recompute: bool,
        sinogram_blocks: int | None = None,
        dilations: Sequence[int] = (1,),
    ) -> None:
        sinogram_blocks = blocks if sinogram_blocks is None else sinogram_blocks
        check_sizes(
            stages=stages,
            blocks=blocks,
            dual_channels=dual_channels,
            sinogram_blocks=sinogram_blocks,
            dilations=min(dilations, default=0),
        )
        super().__init__()
        self.scan, self.recompute = Scan(projector), recompute

        def image_prox() -> ProxNet:
            return ProxNet(1 + dual_channels, blocks, dilations)

        def sinogram_prox() -> ProxNet:
            return ProxNet(1 + dual_channels, sinogram_blocks)

        self.dual, self.sinogram_dual = dual_convolution(dual_channels), dual_convolution(dual_channels)
        self.first_prox, self.first_sinogram_prox = image_prox(), sinogram_prox()
        self.prior_norm = nn.BatchNorm2d(1)
        self.stages = nn.ModuleList(DualDomainStage(sinogram_prox(), image_prox()) for _ in range(stages))

    def typed_ends(self, group_order: int) -> TypedEnds:
        """Return the fields of the unfolding: of sinograms and their dual channels the views shift."""
        dual = tuple(automatic_fields(self.dual.out_channels, group_order))
        state = (*IMAGE_FIELDS, *dual)
        ends: dict[str, Ends] = {f"{name}.*": (state, state) for name in ("first_prox", "stages.*.image_prox")}
        sinograms = ("sinogram_dual", "first_sinogram_prox.*", "stages.*.sinogram_prox.*")
        return {"dual": (IMAGE_FIELDS, dual)} | ends | view_fields(self, sinograms), ()

    def unfold(
        self,
        li: Tensor,
        ma_sinogram: Tensor,
        li_sinogram: Tensor,
        metal_trace: Tensor,
        prior_image: Tensor,
        measured_image: Tensor | None = None,
    ) -> NetworkOutput:
        """Run all stages.

        Args:
            li: linearly interpolated correction XLI, [batch, 1, height, width], network units.
            ma_sinogram: measured sinogram Sma, [batch, 1, views, bins], network units.
            li_sinogram: its linear interpolation SLI.
            metal_trace: 1 in the bins whose ray meets metal.
            prior_image: Xs, as ``li``.
            measured_image: Xma, for a warm start: S begins as SLI / Ybar, whose product with Ybar is SLI, instead of
                SLI, and the dual channels are made from Xma and Sma / Ybar instead of XLI and SLI.

        Returns:
            The last stage's image; those of the others; Ybar S of all.
        """
        normaliser = self.scan.project(functional.relu(self.prior_norm(prior_image.to(li.dtype))))
        seen_sinogram = None
        if measured_image is not None:
            inverse = normaliser / (normaliser.square() + _LEAST_NORMALISER**2)
            li_sinogram, seen_sinogram = li_sinogram * inverse, ma_sinogram * inverse
        image_state = initial_state(self.first_prox, self.dual, li, measured_image)
        sinogram_state = initial_state(self.first_sinogram_prox, self.sinogram_dual, li_sinogram, seen_sinogram)
        images, sinograms = [], []
        for stage in self.stages:
            inputs = (image_state, sinogram_state, ma_sinogram, 1 - metal_trace, normaliser)

            def run(*tensors: Tensor, stage: nn.Module = stage) -> tuple[Tensor, Tensor]:
                return stage(self.scan, *tensors)

            recompute = self.recompute and torch.is_grad_enabled()
            image_state, sinogram_state = recomputed(run, stage, *inputs) if recompute else run(*inputs)
            images.append(image_state[:, :1])
            sinograms.append(normaliser * sinogram_state[:, :1])
        return NetworkOutput(images[-1], tuple(images[:-1]), sinograms=tuple(sinograms))


class DualDomainStage(nn.Module):
    """One step on the sinogram, one on the image.

    Args:
        sinogram_prox: proximal network of the sinogram and its dual channels.
        image_prox: that of the image and its dual channels.
    """

    def __init__(self, sinogram_prox: ProxNet, image_prox: ProxNet) -> None:
        super().__init__()
        self.sinogram_step = nn.Parameter(torch.tensor(1.0))
        self.image_step = nn.Parameter(torch.tensor(5.0))
        self.consistency = nn.Parameter(torch.tensor(0.5))
        self.sinogram_prox, self.image_prox = sinogram_prox, image_prox

    def forward(
        self,
        scan: Scan,
        image_state: Tensor,
        sinogram_state: Tensor,
        ma_sinogram: Tensor,
        outside: Tensor,
        normaliser: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return the states after the stage.

        Args:
            scan: the projector.
            image_state: X and its dual channels, [batch, 1 + dual, height, width].
            sinogram_state: S and its dual channels, [batch, 1 + dual, views, bins].
            ma_sinogram: Sma.
            outside: Tr, 1 in the bins off the metal trace.
            normaliser: Ybar.
        """
        image, sinogram = image_state[:, :1], sinogram_state[:, :1]
        projected, corrected = scan.project(image), normaliser * sinogram
        gradient = normaliser * (corrected - projected + self.consistency * outside * (corrected - ma_sinogram))
        moved = sinogram - self.sinogram_step / STEP_SCALE * gradient
        sinogram_state = self.sinogram_prox(torch.cat((moved, sinogram_state[:, 1:]), dim=1))
        gradient = scan.weighted_adjoint(projected - normaliser * sinogram_state[:, :1])
        moved = image - self.image_step / STEP_SCALE * gradient
        return self.image_prox(torch.cat((moved, image_state[:, 1:]), dim=1)), sinogram_state


class InDuDoNet(DualDomainNetwork):
    """InDuDoNet: the prior image is Xs = XLI + UNet([Xma, XLI]).

    Args:
        stages: see `DualDomainNetwork`.
        blocks: see there.
        dual_channels: see there.
        prior_width: channels of the U-Net's first level.
        prior_poolings: number of times that the U-Net halves the size.
        projector: see `DualDomainNetwork`.
        recompute: see there.
    """

    inputs = (IMAGE, LI, METAL_MASK, MA_SINOGRAM, LI_SINOGRAM, METAL_TRACE)

    def __init__(
        self,
        stages: int = 10,
        blocks: int = 4,
        dual_channels: int = 32,
        prior_width: int = 32,
        prior_poolings: int = 4,
        projector: Projector | None = None,
        recompute: bool = True,
    ) -> None:
        super().__init__(stages, blocks, dual_channels, projector, recompute)
        self.prior = UNet(2, 1, prior_width, prior_poolings)

    def typed_ends(self, group_order: int) -> TypedEnds:
        """Return the fields, also those of the prior's U-Net."""
        ends, exclude = super().typed_ends(group_order)
        return ends | unet_fields(self.prior, group_order, "prior."), exclude

    def forward(
        self,
        image: Tensor,
        li: Tensor,
        metal_mask: Tensor,
        ma_sinogram: Tensor,
        li_sinogram: Tensor,
        metal_trace: Tensor,
    ) -> NetworkOutput:
        """Correct a batch of whole slices.

        Args:
            image: corrupted images Xma, [batch, 1, height, width], network units.
            li: their linearly interpolated correction XLI.
            metal_mask: not used: the trace says where metal was.
            ma_sinogram: measured sinograms Sma, [batch, 1, views, bins], network units.
            li_sinogram: their linear interpolation SLI.
            metal_trace: 1 in the bins whose ray meets metal.

        Returns:
            Images and corrected sinograms of all stages.

        Raises:
            InputError: shapes or device that are not the projector's.
        """
        self.scan.check((image, li), (ma_sinogram, li_sinogram, metal_trace))
        prior_image = li + self.prior(torch.cat((image, li), dim=1))
        return self.unfold(li, ma_sinogram, li_sinogram, metal_trace, prior_image)


class InDuDoNetPlus(DualDomainNetwork):
    """InDuDoNet+: the prior image is Xs = WNet(Xma) Xprior, with the prior image of NMAR.

    Args:
        stages: see `DualDomainNetwork`.
        blocks: see there.
        dual_channels: see there.
        prior_width: channels of WNet.
        start: ``li`` is the published network. ``nmar`` starts from NMAR's image and normalised sinogram in place of
            LI's, has dual channels made from the measured image and sinogram, and begins as NMAR: WNet = 1 and
            residual blocks that change nothing. Far less is left to learn, which short trainings of few stages need.
        projector: see `DualDomainNetwork`.
        recompute: see there.
        sinogram_blocks: see there.
        dilations: see there; 1, 2, 4, 8 let few blocks see streaks from end to end.
    """

    inputs = (IMAGE, LI, METAL_MASK, MA_SINOGRAM, LI_SINOGRAM, METAL_TRACE, PRIOR)

    def __init__(
        self,
        stages: int = 10,
        blocks: int = 4,
        dual_channels: int = 32,
        prior_width: int = 32,
        start: Start = "li",
        projector: Projector | None = None,
        recompute: bool = True,
        sinogram_blocks: int | None = None,
        dilations: Sequence[int] = (1,),
    ) -> None:
        super().__init__(stages, blocks, dual_channels, projector, recompute, sinogram_blocks, dilations)
        check_sizes(prior_width=prior_width)
        if start not in get_args(Start):
            raise ValueError(f"start: got {start!r}, expected {' or '.join(get_args(Start))}")
        self.start = start
        last = nn.Conv2d(prior_width, 1, 3, padding=1)
        if start == "nmar":
            self.inputs = (IMAGE, NMAR, METAL_MASK, MA_SINOGRAM, NMAR_SINOGRAM, METAL_TRACE, PRIOR)
            for block in (module for module in self.modules() if isinstance(module, ResBlock)):
                nn.init.zeros_(block.norm2.weight)
            nn.init.zeros_(last.weight)
            nn.init.constant_(cast(Tensor, last.bias), 1)
        self.prior_weights = nn.Sequential(
            nn.Conv2d(1, prior_width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(prior_width, prior_width, 3, padding=1),
            nn.BatchNorm2d(prior_width),
            nn.ReLU(),
            last,
        )

    def typed_ends(self, group_order: int) -> TypedEnds:
        """Return the fields, also those of the prior's weights."""
        ends, exclude = super().typed_ends(group_order)
        return ends | chain_fields(self.prior_weights, "prior_weights", group_order), exclude

    def forward(
        self,
        image: Tensor,
        li: Tensor,
        metal_mask: Tensor,
        ma_sinogram: Tensor,
        li_sinogram: Tensor,
        metal_trace: Tensor,
        prior: Tensor,
    ) -> NetworkOutput:
        """Correct a batch of whole slices.

        Args:
            image: corrupted images Xma, [batch, 1, height, width], network units.
            li: their linearly interpolated correction XLI; that of NMAR if it starts from there.
            metal_mask: not used: the trace says where metal was.
            ma_sinogram: measured sinograms Sma, [batch, 1, views, bins], network units.
            li_sinogram: their linear interpolation SLI, or their correction by NMAR.
            metal_trace: 1 in the bins whose ray meets metal.
            prior: prior images of NMAR, as ``image``.

        Returns:
            Images and corrected sinograms of all stages.

        Raises:
            InputError: shapes or device that are not the projector's.
        """
        self.scan.check((image, li, prior), (ma_sinogram, li_sinogram, metal_trace))
        prior_image = self.prior_weights(image) * prior
        measured_image = image if self.start == "nmar" else None
        return self.unfold(li, ma_sinogram, li_sinogram, metal_trace, prior_image, measured_image)
