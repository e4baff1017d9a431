"""DICDNet: deep interpretable convolutional dictionary network (Wang et al., IEEE TMI 41, 2022)."""

from typing import NamedTuple

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from mar_pipeline.equivariance.fields import automatic_fields
from mar_pipeline.equivariance.weight_space import Ends
from mar_pipeline.networks.blocks import (
    STEP_SCALE,
    NetworkOutput,
    ProxNet,
    SparseProxNet,
    analyse,
    check_sizes,
    dual_convolution,
    image_step,
    initial_state,
    oriented_kernels,
    synthesise,
)
from mar_pipeline.networks.field_patterns import IMAGE_FIELDS, TypedEnds
from mar_pipeline.networks.losses import dictionary_loss


class Unfolded(NamedTuple):
    """Where the stages end, and what they went through."""

    state: Tensor
    """Image and dual channels, [batch, 1 + dual, height, width]."""
    maps: Tensor
    """Feature maps, [batch, maps, height, width]."""
    images: list[Tensor]
    artifacts: list[Tensor]


class DictionaryNetwork(nn.Module):
    """Stages of proximal gradient steps on feature maps M and image X; a subclass says which kernels K they use.

        [X0, Q] = ProxX0([XLI, dual(XLI)])
        M = ProxM1(K0^T ReLU(I (Y - X0) - tau) / 10)                      in the first stage, afterwards
        M = ProxM(M - (eta_M / 10) K^T I (A - (Y - X)))
        A = K (x) M
        [X, Q] = ProxX([X + (eta_x / 10) I (Y - A - X), Q])

    and one more ProxX at the end.

    Args:
        stages: number of stages S.
        blocks: residual blocks T of a proximal network.
        dual_channels: channels that go along with the image in ProxX.
        initial_kernels: [maps, size, size], initial values of K0.
    """

    loss = staticmethod(dictionary_loss)
    per_image = False
    """Whether the kernels depend on the images, so that every stage has its own."""

    def __init__(self, stages: int, blocks: int, dual_channels: int, initial_kernels: Tensor) -> None:
        super().__init__()
        maps, channels = len(initial_kernels), 1 + dual_channels
        self.dual = dual_convolution(dual_channels)
        self.initial_kernels = nn.Parameter(initial_kernels)
        self.threshold = nn.Parameter(torch.tensor(1.0))
        self.map_steps = nn.Parameter(torch.full((stages - 1,), 1.0))
        self.image_steps = nn.Parameter(torch.full((stages,), 5.0))
        self.first_prox = ProxNet(channels, blocks)
        self.map_proxes = nn.ModuleList(SparseProxNet(maps, blocks) for _ in range(stages))
        self.image_proxes = nn.ModuleList(ProxNet(channels, blocks) for _ in range(stages))
        self.last_prox = ProxNet(channels, blocks)

    def typed_ends(self, group_order: int) -> TypedEnds:
        """Return fields of all layers: images are trivial, dual channels are regular groups.

        Maps are left out where consecutive ones are not the orientations of one kernel.
        """
        dual = tuple(automatic_fields(self.dual.out_channels, group_order))
        state = (*IMAGE_FIELDS, *dual)
        ends: dict[str, Ends] = {f"{name}.*": (state, state) for name in ("first_prox", "image_proxes", "last_prox")}
        ends |= {"dual": (IMAGE_FIELDS, dual)}
        if not self.has_oriented_maps(group_order):
            return ends, ("map_proxes",)
        maps = tuple(automatic_fields(len(self.initial_kernels), group_order))
        return ends | {"map_proxes.*": (maps, maps)}, ()

    def has_oriented_maps(self, group_order: int) -> bool:
        """Return whether consecutive maps can be the `group_order` orientations of one kernel."""
        return False

    def dictionary(self, current: Tensor, image: Tensor) -> Tensor:
        """Return the kernels K with their scale.

        Args:
            current: the image X of the stage before, [batch, 1, height, width].
            image: the corrupted image Y.

        Returns:
            [maps, size, size], or [batch, maps, size, size] where they are `per_image`.
        """
        raise NotImplementedError

    def first_artifact(self, maps: Tensor, kernels: Tensor) -> Tensor:
        """Return the artifact layer of the first stage."""
        return synthesise(maps, kernels)

    def forward(self, image: Tensor, li: Tensor, metal_mask: Tensor) -> NetworkOutput:
        """Correct a batch.

        Args:
            image: corrupted images Y, [batch, 1, height, width], network units.
            li: their linearly interpolated correction XLI.
            metal_mask: 1 where metal is.

        Returns:
            The final image; X0 and the image of every stage; the artifact layer of every stage.
        """
        unfolded = self.unfold(image, li, 1 - metal_mask)
        final = self.last_prox(unfolded.state)[:, :1]
        return NetworkOutput(final, tuple(unfolded.images), tuple(unfolded.artifacts))

    def unfold(self, image: Tensor, li: Tensor, outside: Tensor) -> Unfolded:
        """Run all stages but the last ProxX; `outside` is I, the rest as for `forward`."""
        state = initial_state(self.first_prox, self.dual, li)
        current = state[:, :1]
        kernels = self.dictionary(current, image)
        excess = functional.relu(outside * (image - current) - self.threshold)
        maps = self.map_proxes[0](analyse(excess, self.initial_kernels / STEP_SCALE))
        artifact = self.first_artifact(maps, kernels)
        images, artifacts = [current], [artifact]
        for stage, (map_prox, image_prox) in enumerate(zip(self.map_proxes, self.image_proxes, strict=True)):
            if stage > 0:
                if self.per_image:
                    kernels = self.dictionary(current, image)
                    artifact = synthesise(maps, kernels)
                gradient = analyse(outside * (artifact - (image - current)), kernels)
                maps = map_prox(maps - self.map_steps[stage - 1] / STEP_SCALE * gradient)
                artifact = synthesise(maps, kernels)
                artifacts.append(artifact)
            state = image_prox(image_step(state, image, artifact, outside, self.image_steps[stage]))
            current = state[:, :1]
            images.append(current)
        return Unfolded(state, maps, images, artifacts)


class DICDNet(DictionaryNetwork):
    """DICDNet: one dictionary K of free kernels, K / 10 in both directions, shared by the stages.

    Args:
        stages: number of stages S.
        blocks: residual blocks T of a proximal network.
        maps: number of feature maps and kernels.
        dual_channels: channels that go along with the image in ProxX.
        kernel_size: odd width of the kernels in pixels.
    """

    def __init__(
        self, stages: int = 10, blocks: int = 3, maps: int = 32, dual_channels: int = 32, kernel_size: int = 9
    ) -> None:
        check_sizes(kernel_size, stages=stages, blocks=blocks, maps=maps, dual_channels=dual_channels)
        super().__init__(stages, blocks, dual_channels, oriented_kernels(maps, kernel_size))
        self.kernels = nn.Parameter(oriented_kernels(maps, kernel_size))

    def dictionary(self, current: Tensor, image: Tensor) -> Tensor:
        """Return K / 10, the same for all images and stages."""
        return self.kernels / STEP_SCALE

    def has_oriented_maps(self, group_order: int) -> bool:
        """Return True: the kernels are free, so they can learn to be rotated copies."""
        return True
