"""A trained network as a correction of projections: its image, at the pixel size that it was trained at, is the prior.

A network by itself also changes what no metal has touched. So only the metal's trace is filled from its image's
projection, as CNNMAR does (Y. Zhang, H. Yu, IEEE TMI 37, 2018); all other projections stay those of the image.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from mar_pipeline.data.measured import pair_arrays, with_projected_data
from mar_pipeline.dicom.correction.virtual_scan import Grid, virtual_scan
from mar_pipeline.inference.fast import FastNetwork, Precision, fast_network
from mar_pipeline.networks.build import inputs_of, network_inputs, projector_of
from mar_pipeline.sample import IMAGE, Layout, to_mu, to_sample
from mar_pipeline.weights.trained import Trained
from simulation.correction import replace_trace
from simulation.errors import InputError, MarError
from simulation.physics.projector import Projector, Weighting
from simulation.physics.protocols import protocol
from simulation.simulator import Sample

BODY_PIXEL_MM = {"syndeeplesion": 0.8 * 512 / 416, "clinical": 500 / 512, "ctmar": 400 / 512}
"""Size in the body of a pixel of the training data. SynDeepLesion stretches every DeepLesion slice of 512 pixels, most
of them of 0.8 mm (K. Yan et al., Journal of Medical Imaging 5, 2018), to 416."""
_STEP = 32
"""Image-domain networks that pool need sides that halve several times."""
_COVERED = 0.25


@dataclass(frozen=True)
class NetworkFill:
    """Fills the metal's trace from the image that a network makes, see `projection.SinogramMethod`.

    The image is resampled to the network's pixels, and what the network changes there is resampled back: a correction
    keeps what it is added to.

    Args:
        trained: the network.
        infer: its fast form.
        grid: the network's grid for images of the scan.
        projector: for projections of that grid: the network's own, if it has one.
        weighting: of its filtered back projection.
        device: of the network.
    """

    trained: Trained
    infer: FastNetwork
    grid: Grid
    projector: Projector
    weighting: Weighting
    device: str

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the user should know of the network's pixels."""
        trained_mm = BODY_PIXEL_MM[self.trained.preset]
        if self.grid.pixel_mm <= trained_mm * 1.001:
            return ()
        return (
            f"the network sees pixels of {self.grid.pixel_mm:.2f} mm instead of the {trained_mm:.2f} mm that it learnt "
            "at, because its one grid must hold the whole image",
        )

    def __call__(
        self, mu: np.ndarray, sinogram: np.ndarray, trace: np.ndarray, metal: np.ndarray, projector: Projector
    ) -> np.ndarray:
        """Return the corrected sinogram.

        Args:
            mu: Float["rows columns"] on the scan's grid, 1/cm.
            sinogram: its projection.
            trace: Bool["views bins"].
            metal: Bool["rows columns"].
            projector: of the scan.

        Raises:
            InputError: the network cannot compute the image.
        """
        covered = self.grid.to_grid(metal.astype(np.float32))
        mask = covered > min(_COVERED, covered.max() / 2)  # also metal that is smaller than the network's pixels
        try:
            change = self._change(np.maximum(self.grid.to_grid(mu), 0), mask)
        except (MarError, RuntimeError) as error:  # torch's word for shapes that do not fit and for no memory left
            raise InputError(f"the network cannot correct the slice: {' '.join(str(error).split())[:300]}") from error
        prior = _without_metal(mu, metal) + self.grid.from_grid(_without_metal(change, mask))
        return replace_trace(sinogram, trace, prior, projector, "standard")[0]

    def _change(self, mu: np.ndarray, metal: np.ndarray) -> np.ndarray:
        """Return what the network adds to an image on its grid, 1/cm; on metal it means nothing."""
        network = self.trained.network
        given = with_projected_data(Sample(None, None, mu, None, None), metal, self.projector, self.weighting)
        layout = Layout.of(network_inputs(network)).without_truth
        arrays = pair_arrays(layout, given, None, metal, self.projector, self.weighting)
        tensors = {key: value.to(self.device)[None] for key, value in to_sample(arrays, layout).items()}
        answer = self.infer(*inputs_of(network, tensors)) - tensors[IMAGE]
        return to_mu(answer)[0, 0].float().cpu().numpy()


def network_fill(
    trained: Trained, side: int, pixel_mm: float, device: str, precision: Precision, threads: int
) -> NetworkFill:
    """Return a trained network for square images of a scan.

    Image-domain networks get a grid of their training pixel size as large as the image. A dual-domain network has one
    grid: where the image is larger, its pixels grow until it fits.

    Args:
        trained: the network, on the device.
        side: rows and columns of the images.
        pixel_mm: side of their pixels.
        device: cpu or cuda.
        precision: float32 or bfloat16.
        threads: CPU threads of the projector.
    """
    own_mm, side_mm = BODY_PIXEL_MM[trained.preset], side * pixel_mm
    own, weighting = projector_of(trained.network), protocol(trained.preset).weighting
    if own is None:
        count = _STEP * math.ceil(side_mm / own_mm / _STEP)
        own = Projector(virtual_scan((count, count), (own_mm, own_mm))[1], "cpu", threads)
        weighting = "standard"
    else:
        own_mm = max(own_mm, side_mm / min(own.geometry.image_shape))
    grid = Grid((side, side), (pixel_mm, pixel_mm), own.geometry.image_shape, own_mm)
    return NetworkFill(trained, fast_network(trained.network, precision), grid, own, weighting, device)


def _without_metal(image: np.ndarray, metal: np.ndarray) -> np.ndarray:
    """Return the image with the nearest values around metal in its place."""
    nearest = ndimage.distance_transform_edt(metal, return_distances=False, return_indices=True)
    return image[tuple(nearest)]
