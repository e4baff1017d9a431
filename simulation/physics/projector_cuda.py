"""The projector's linear maps on CUDA: ASTRA works on torch's own memory; the only module that projects with ASTRA."""

import astra
import numpy as np
from torch import Tensor

from simulation.physics import projector_torch
from simulation.physics.geometry import FanBeam
from simulation.units import MM_PER_CM


class CudaOperators:
    """Forward, adjoint, back projection and its transpose on CUDA tensors (batch, ...).

    Forward and adjoint are ASTRA's; they link torch tensors through DLPack, without a copy to the host. Filtered back
    projection uses torch operations, so that it is the same formula as on the CPU for both weightings.

    Args:
        geometry: the scan.

    Raises:
        RuntimeError: if ASTRA finds no GPU. Nothing of CUDA is called before that is known.
    """

    def __init__(self, geometry: FanBeam) -> None:
        if not astra.use_cuda():
            raise RuntimeError("ASTRA finds no GPU on this machine")
        if geometry.detector != "flat":
            raise RuntimeError("ASTRA has no fan beam with a detector on an arc")
        self.geometry = geometry
        self._projector = astra.create_projector("cuda", *astra_geometries(geometry))

    def __reduce__(self) -> tuple[type["CudaOperators"], tuple[FanBeam]]:
        return CudaOperators, (self.geometry,)  # a copy owns an ASTRA projector of its own

    def __del__(self) -> None:
        if hasattr(self, "_projector"):
            astra.projector.delete(self._projector)

    def forward(self, images: Tensor) -> Tensor:
        """Return line integrals (batch, views, bins) of images (batch, rows, columns) in 1/cm."""
        sinograms = images.new_zeros(len(images), *self.geometry.sinogram_shape)
        for image, sinogram in zip(images, sinograms, strict=True):
            astra.projector.direct_FP(self._projector, image, out=sinogram)
        return sinograms.mul_(self.geometry.pixel_mm / MM_PER_CM)

    def adjoint(self, sinograms: Tensor) -> Tensor:
        """Return ASTRA's back projection, matched to its forward projection up to their interpolations."""
        images = sinograms.new_zeros(len(sinograms), *self.geometry.image_shape)
        for sinogram, image in zip(sinograms, images, strict=True):
            astra.projector.direct_BP(self._projector, sinogram, out=image)
        return images.mul_(self.geometry.pixel_mm / MM_PER_CM)

    def backproject(self, sinograms: Tensor, power: int) -> Tensor:
        """Return sum over views of the interpolated sinogram times magnification ** power: (batch, rows, columns)."""
        return projector_torch.backproject(sinograms, self.geometry, power)

    def backproject_transpose(self, images: Tensor, power: int) -> Tensor:
        """Return exact transpose of `backproject`: (batch, views, bins)."""
        return projector_torch.backproject_transpose(images, self.geometry, power)


def astra_geometries(geometry: FanBeam) -> tuple[dict, dict]:
    """Return ASTRA's projection and volume geometry in units of a pixel; arrays as they are, no transpose.

    ASTRA's x runs along the columns and its y against the rows, a rotation of our axes by -90 degrees.
    """
    theta = geometry.angles_rad
    sine, cosine = np.sin(theta), np.cos(theta)
    source = geometry.source_mm / geometry.pixel_mm
    detector = geometry.detector_mm / geometry.pixel_mm
    pitch = geometry.pitch_mm / geometry.pixel_mm
    along = -pitch if geometry.reversed_bins else pitch
    shift = geometry.column_offset * along
    # Ours (x, y) is ASTRA's (y, -x): source R (sin, -cos), detector D (-sin, cos), bins along (cos, sin).
    vectors = np.stack(
        [
            -source * cosine,
            -source * sine,
            detector * cosine + shift * sine,
            detector * sine - shift * cosine,
            along * sine,
            -along * cosine,
        ],
        axis=1,
    )
    projection = astra.create_proj_geom("fanflat_vec", geometry.bins, vectors)
    rows, columns = geometry.image_shape
    return projection, astra.create_vol_geom(rows, columns)
