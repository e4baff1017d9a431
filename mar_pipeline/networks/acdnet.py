"""ACDNet: adaptive convolutional dictionary network (Wang et al., IJCAI 2022)."""

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from mar_pipeline.networks.blocks import (
    STEP_SCALE,
    NetworkOutput,
    ProxNet,
    SparseProxNet,
    analyse,
    check_sizes,
    correlate,
    full_precision,
    image_step,
    oriented_kernels,
    synthesise,
)
from mar_pipeline.networks.dicdnet import DictionaryNetwork
from mar_pipeline.networks.field_patterns import TypedEnds
from mar_pipeline.networks.losses import acdnet_loss

_KERNEL_STEP_SCALE = 50.0


class ACDNet(DictionaryNetwork):
    """ACDNet: kernels of every image are combinations of a common dictionary D, K D / 10.

    Two stages as DICDNet's with a few kernels D0 / 10 of their own and two 1x1 convolutions of the maps, identities at
    first, lead to X and M. Then every stage, from K = 0 and A = 0 on, is

        K = KNet(K + eta_K / (50 h w) <D_d / 10 (x) M_n, I (Y - X - A)>)
        M = ProxM(M + (eta_M / 10) (K D / 10)^T I (Y - X - A))         with A of the new K
        [X, Q] = ProxX([X + (eta_x / 10) I (Y - X - A), Q])            with A of the new M

    and one more ProxX ends it. Published is a first K = KNet(<D_d / 10 (x) M_n, I (Y - X)>), a sum over all pixels: a
    network trained on 64 x 64 sees values 42 times larger at 416 x 416. Here the first stage is scaled as the others.

    Args:
        stages: number of stages T after the two first ones.
        blocks: residual blocks of a proximal network.
        maps: number of feature maps N, and kernels of an image.
        kernels: number of kernels d of the common dictionary.
        dual_channels: channels that go along with the image in ProxX.
        kernel_size: odd width of the kernels in pixels.
        paper_scaling: takes the first K as published; its eta_K does not exist then.
    """

    loss = staticmethod(acdnet_loss)

    def __init__(
        self,
        stages: int = 10,
        blocks: int = 3,
        maps: int = 6,
        kernels: int = 32,
        dual_channels: int = 32,
        kernel_size: int = 9,
        paper_scaling: bool = False,
    ) -> None:
        check_sizes(kernel_size, stages=stages, blocks=blocks, maps=maps, kernels=kernels, dual_channels=dual_channels)
        super().__init__(2, blocks, dual_channels, oriented_kernels(maps, kernel_size))
        self.mixing = nn.Sequential(*(_identity_convolution(maps) for _ in range(2)))
        self.atoms = nn.Parameter(oriented_kernels(kernels, kernel_size))
        self.adaptive_stages = nn.ModuleList(
            AdaptiveStage(blocks, maps, kernels, dual_channels, unscaled=paper_scaling and stage == 0)
            for stage in range(stages)
        )

    def dictionary(self, current: Tensor, image: Tensor) -> Tensor:
        """Return D0 / 10, of the two first stages."""
        return self.initial_kernels / STEP_SCALE

    def typed_ends(self, group_order: int) -> TypedEnds:
        """Return the fields without the maps, whose kernels are other ones for every image."""
        ends, exclude = super().typed_ends(group_order)
        stages = range(len(self.adaptive_stages))
        state = ends["first_prox.*"]
        ends |= {f"adaptive_stages.{stage}.image_prox.*": state for stage in stages}
        return ends, (*exclude, "mixing", *(f"adaptive_stages.{stage}.map_prox" for stage in stages))

    def forward(self, image: Tensor, li: Tensor, metal_mask: Tensor) -> NetworkOutput:
        """Correct a batch.

        Args:
            image: corrupted images Y, [batch, 1, height, width], network units.
            li: their linearly interpolated correction XLI.
            metal_mask: 1 where metal is.

        Returns:
            The final image; X0, the images of the two first stages and of all others; the artifact layers likewise.
        """
        outside = 1 - metal_mask
        state, maps, images, artifacts = self.unfold(image, li, outside)
        with full_precision(maps):
            maps = self.mixing(maps)
        atoms = self.atoms / STEP_SCALE
        coefficients = maps.new_zeros((len(maps), maps.shape[1], len(atoms)))
        artifact = torch.zeros_like(image)
        for stage in self.adaptive_stages:
            coefficients, maps, state, artifact = stage(coefficients, maps, state, artifact, atoms, image, outside)
            images.append(state[:, :1])
            artifacts.append(artifact)
        return NetworkOutput(self.last_prox(state)[:, :1], tuple(images), tuple(artifacts))


class AdaptiveStage(nn.Module):
    """One stage of ACDNet: a step on the kernels' coefficients K, on the maps M and on the image X.

    Args:
        blocks: residual blocks of a proximal network.
        maps: number of feature maps N.
        kernels: number of kernels d of the common dictionary.
        dual_channels: channels that go along with the image in ProxX.
        unscaled: the step on K is the bare sum over the pixels.
    """

    def __init__(self, blocks: int, maps: int, kernels: int, dual_channels: int, unscaled: bool = False) -> None:
        super().__init__()
        self.kernel_step = None if unscaled else nn.Parameter(torch.tensor(5.0))
        self.map_step = nn.Parameter(torch.tensor(1.0))
        self.image_step = nn.Parameter(torch.tensor(5.0))
        self.kernel_prox = KernelProxNet(maps, kernels)
        self.map_prox = SparseProxNet(maps, blocks)
        self.image_prox = ProxNet(1 + dual_channels, blocks)

    def forward(
        self,
        coefficients: Tensor,
        maps: Tensor,
        state: Tensor,
        artifact: Tensor,
        atoms: Tensor,
        image: Tensor,
        outside: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Make one step each.

        Args:
            coefficients: K, [batch, maps, kernels].
            maps: M, [batch, maps, height, width].
            state: X and its dual channels, [batch, 1 + dual, height, width].
            artifact: A of this K and M, [batch, 1, height, width].
            atoms: D / 10, [kernels, size, size].
            image: the corrupted image Y.
            outside: I, 1 outside metal.

        Returns:
            K, M, the state, and A.
        """
        unexplained = image - state[:, :1]
        coefficients = self.kernel_prox(
            coefficients + self.kernel_gradient(maps, outside * (unexplained - artifact), atoms)
        )
        with full_precision(maps):
            kernels = torch.einsum("bnd,dij->bnij", coefficients, atoms)
        artifact = synthesise(maps, kernels)
        gradient = analyse(outside * (unexplained - artifact), kernels)
        maps = self.map_prox(maps + self.map_step / STEP_SCALE * gradient)
        artifact = synthesise(maps, kernels)
        return (
            coefficients,
            maps,
            self.image_prox(image_step(state, image, artifact, outside, self.image_step)),
            artifact,
        )

    def kernel_gradient(self, maps: Tensor, residual: Tensor, atoms: Tensor) -> Tensor:
        """Return the scaled inner products <D_d (x) M_n, r>.

        Args:
            maps: M, [batch, maps, height, width].
            residual: r, [batch, 1, height, width].
            atoms: D, [kernels, size, size].

        Returns:
            [batch, maps, kernels].
        """
        with full_precision(maps):
            products = torch.einsum("bnij,dij->bnd", correlate(maps, residual, atoms.shape[-1]), atoms)
        if self.kernel_step is None:
            return products
        height, width = maps.shape[-2:]
        return self.kernel_step / (_KERNEL_STEP_SCALE * height * width) * products


class KernelProxNet(nn.Module):
    """Learned proximal operator of the coefficients, KNet: ReLU(K + f(K) - tau), then rows of norm 1.

    f has one hidden layer. At tau = 0, its initial value, this is the published forward, which has a tau and no use
    for it.

    Args:
        maps: rows N of K.
        kernels: columns d of K.
    """

    def __init__(self, maps: int, kernels: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(maps * kernels, maps * kernels)
        self.output = nn.Linear(maps * kernels, maps * kernels)
        self.threshold = nn.Parameter(torch.zeros(maps, kernels))

    def forward(self, coefficients: Tensor) -> Tensor:
        """Apply it to [batch, maps, kernels], never below float32."""
        with full_precision(coefficients):
            flat = coefficients.flatten(1)
            flat = flat + self.output(functional.relu(self.hidden(flat)))
            return functional.normalize(functional.relu(flat.view_as(coefficients) - self.threshold), dim=2, eps=1e-6)


def _identity_convolution(channels: int) -> nn.Conv2d:
    convolution = nn.Conv2d(channels, channels, 1, bias=False)
    nn.init.dirac_(convolution.weight)
    return convolution
