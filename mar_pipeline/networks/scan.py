"""The projector as a network uses it: in network units, float32 whatever autocast says, and on the network's device."""

import math
from collections.abc import Sequence

from torch import Tensor

from mar_pipeline.sample import UNITS_PER_LINE_INTEGRAL, UNITS_PER_MU
from simulation.errors import InputError
from simulation.physics.geometry import FanBeam
from simulation.physics.projector import Projector, Weighting
from simulation.units import MM_PER_CM

BENCHMARK = "syndeeplesion"


class Scan:
    """Projection, weighted adjoint and filtered back projection of images and sinograms in network units.

    Args:
        projector: of the scan; None is the benchmark's, on the CPU.
        weighting: of the filtered back projection.
    """

    def __init__(self, projector: Projector | None = None, weighting: Weighting = "benchmark") -> None:
        self.projector = projector or Projector(FanBeam.preset(BENCHMARK), "cpu")
        self.weighting = weighting
        geometry = self.projector.geometry
        view_rad, pitch_cm = 2 * math.pi / geometry.views, geometry.pitch_mm / MM_PER_CM
        self._adjoint_weight = view_rad * pitch_cm / (geometry.pixel_mm / MM_PER_CM) ** 2

    def project(self, image: Tensor) -> Tensor:
        """Return P x: the sinogram of an image.

        Args:
            image: Float["batch 1 rows columns"], network units.

        Returns:
            Float["batch 1 views bins"], network units, not clipped.

        Raises:
            InputError: another device than the projector's, or another shape than its geometry's.
        """
        self._check_device(image)
        return self.projector.forward(image / UNITS_PER_MU) * UNITS_PER_LINE_INTEGRAL

    def weighted_adjoint(self, sinogram: Tensor) -> Tensor:
        """Return P* y, the adjoint under the inner products of functions: P^T y dtheta du / pixel^2.

        An image weighs pixel^2, a sinogram dtheta du, as ODL has it, on which the public code of the dual-domain
        networks stands; step sizes depend on it. On CUDA it is as near to the transpose as ASTRA's pair of kernels. The
        result is that of y in line integrals: P* (4 / 255) y.

        Args:
            sinogram: Float["batch 1 views bins"], network units.

        Returns:
            Float["batch 1 rows columns"].

        Raises:
            InputError: as `project`.
        """
        self._check_device(sinogram)
        return self.projector.adjoint(sinogram / UNITS_PER_LINE_INTEGRAL) * self._adjoint_weight

    def reconstruct(self, sinogram: Tensor) -> Tensor:
        """Return filtered back projection.

        Args:
            sinogram: Float["batch 1 views bins"], network units.

        Returns:
            Float["batch 1 rows columns"], network units, not clipped.

        Raises:
            InputError: as `project`.
        """
        self._check_device(sinogram)
        return self.projector.fbp(sinogram / UNITS_PER_LINE_INTEGRAL, self.weighting) * UNITS_PER_MU

    def check(self, images: Sequence[Tensor], sinograms: Sequence[Tensor] = ()) -> None:
        """Refuse data of another scan, before a network meets them somewhere in its middle.

        Args:
            images: each Float["batch 1 rows columns"].
            sinograms: each Float["batch 1 views bins"].

        Raises:
            InputError: as `project`.
        """
        geometry = self.projector.geometry
        kinds = (("images", images, geometry.image_shape), ("sinograms", sinograms, geometry.sinogram_shape))
        for what, tensors, (height, width) in kinds:
            for tensor in tensors:
                self._check_device(tensor)
                if tuple(tensor.shape[-2:]) != (height, width):
                    raise InputError(
                        f"network: got {what} of {tensor.shape[-2]} x {tensor.shape[-1]}, but those of its projector "
                        f"have {height} x {width}; give it whole slices of the preset it was built for"
                    )

    def _check_device(self, tensor: Tensor) -> None:
        if tensor.device.type != self.projector.device:
            raise InputError(
                f"network: got tensors on {tensor.device.type}, but its projector computes on {self.projector.device}; "
                "build both for one device"
            )
