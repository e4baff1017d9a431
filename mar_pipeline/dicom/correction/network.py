"""Correction of one reconstructed slice by a trained network, at the pixel size that it was trained at."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from mar_pipeline.data.measured import pair_arrays, with_projected_data
from mar_pipeline.data.sample import IMAGE, Layout, to_sample
from mar_pipeline.dicom.correction.projection import HU_PER_MU, Corrected, added, checked_trace_share
from mar_pipeline.dicom.correction.virtual_scan import Grid, virtual_scan
from mar_pipeline.dicom.errors import RefusedInput
from mar_pipeline.inference.fast import FastNetwork, Precision, fast_network
from mar_pipeline.network_units import to_mu
from mar_pipeline.networks.build import inputs_of, network_inputs, projector_of
from mar_pipeline.weights.trained import Trained
from simulation.errors import InputError
from simulation.projector import Projector, Weighting
from simulation.protocols import protocol
from simulation.synthesize import Sample
from simulation.units import hu_to_mu, mu_to_hu

BODY_PIXEL_MM = {"syndeeplesion": 0.8 * 512 / 416, "clinical": 500 / 512}
"""Size in the body of a pixel of the training data. SynDeepLesion stretches every DeepLesion slice of 512 pixels, most
of them of 0.8 mm (K. Yan et al., Journal of Medical Imaging 5, 2018), to 416."""
_STEP = 32
"""Image-domain networks that pool need sides that halve several times."""
_COVERED = 0.25


@dataclass(frozen=True)
class NetworkCorrection:
    """A trained network on images of one shape and pixel spacing.

    The image is resampled to the network's pixels; what the network changes there is resampled back and added, see
    `projection.added`.

    Args:
        trained: the network.
        infer: its fast form.
        grid: the network's grid for the images.
        projector: for projections of that grid: the network's own, if it has one.
        weighting: of the filtered back projection.
        device: of the network.
        most_trace: trace share above which a slice is refused.
    """

    trained: Trained
    infer: FastNetwork
    grid: Grid
    projector: Projector
    weighting: Weighting
    device: str
    most_trace: float

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

    def __call__(self, hu: np.ndarray, metal: np.ndarray, field_of_view: np.ndarray, truncated: bool) -> Corrected:
        """Corrects a slice, see `ProjectionCorrection`; a body that is cut off fades out in the corners of the grid.

        Raises:
            RefusedInput: metal hides too much of the projections, or the network cannot compute the image.
        """
        network = self.trained.network
        mu = self.grid.mu_on_grid(hu, field_of_view, truncated)
        covered = self.grid.to_grid(metal.astype(np.float32))
        mask = covered > min(_COVERED, covered.max() / 2)  # also metal that is smaller than the network's pixels
        try:
            given = Sample(None, None, np.maximum(mu, 0), None, None)
            sample = with_projected_data(given, mask, self.projector, self.weighting)
            trace_share = checked_trace_share(sample.metal_trace, self.most_trace)
            layout = Layout.of(network_inputs(network)).without_truth
            arrays = pair_arrays(layout, sample, None, mask, self.projector, self.weighting)
            tensors = {key: value.to(self.device)[None] for key, value in to_sample(arrays, layout).items()}
            answer = self.infer(*inputs_of(network, tensors)) - tensors[IMAGE]
        except (InputError, RuntimeError) as error:  # torch's word for shapes that do not fit and for no memory left
            if isinstance(error, RefusedInput):
                raise
            raise RefusedInput(f"the network cannot correct the slice: {' '.join(str(error).split())[:300]}") from error
        # What a network answers on metal means nothing.
        difference = _without_metal(to_mu(answer)[0, 0].float().cpu().numpy() * HU_PER_MU, mask)
        filled = _without_metal(hu, metal)  # what is resampled must not spread metal over its surroundings
        lost = filled - mu_to_hu(self.grid.from_grid(self.grid.to_grid(hu_to_mu(filled))))
        difference = self.grid.from_grid(difference)
        return Corrected(added(hu, difference, lost, metal, field_of_view, self.grid.spacing_mm), trace_share)


def network_correction(
    trained: Trained,
    shape: tuple[int, int],
    spacing_mm: tuple[float, float],
    device: str,
    precision: Precision,
    threads: int,
    most_trace: float,
) -> NetworkCorrection:
    """A trained network for images of a shape and pixel spacing.

    Image-domain networks get a grid of their training pixel size as large as the image. A dual-domain network has one
    grid: where the image is larger, its pixels grow until it fits.

    Args:
        trained: the network, on the device.
        shape: rows and columns of the images.
        spacing_mm: distance of rows, and of columns.
        device: cpu or cuda.
        precision: float32 or bfloat16.
        threads: CPU threads of the projector.
        most_trace: trace share above which a slice is refused.
    """
    pixel_mm = BODY_PIXEL_MM[trained.preset]
    side_mm = max(count * mm for count, mm in zip(shape, spacing_mm, strict=True))
    own, weighting = projector_of(trained.network), protocol(trained.preset).weighting
    if own is None:
        side = _STEP * math.ceil(side_mm / pixel_mm / _STEP)
        own = Projector(virtual_scan((side, side), (pixel_mm, pixel_mm))[1], "cpu", threads)
        weighting = "standard"
    else:
        pixel_mm = max(pixel_mm, side_mm / min(own.geometry.image_shape))
    grid = Grid(shape, spacing_mm, own.geometry.image_shape, pixel_mm)
    infer = fast_network(trained.network, precision)
    return NetworkCorrection(trained, infer, grid, own, weighting, device, most_trace)


def _without_metal(image: np.ndarray, metal: np.ndarray) -> np.ndarray:
    """The image with the nearest values around metal in its place."""
    nearest = ndimage.distance_transform_edt(metal, return_distances=False, return_indices=True)
    return image[tuple(nearest)]
