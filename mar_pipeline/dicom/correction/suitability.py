"""Whether a trained network suits scans of patients, as far as its weights tell."""

from collections.abc import Mapping

CLINICAL = ("clinical", "ctmar")
"""Presets that imitate a clinical scanner."""


def unsuitable(preset: str, metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Return what speaks against correcting scans of patients with a network.

    The score of its validation is no comparison: nothing in a weights file says how LI did on the same pairs.

    Args:
        preset: scanner whose images the network knows.
        metadata: what its weights file says about itself.

    Returns:
        One sentence each, without paths; nothing if nothing is known against it.

    >>> unsuitable("clinical", {"preset": "clinical", "psnr": "41.2"})
    ()
    """
    remarks = []
    if "preset" not in metadata:
        remarks.append("its weights do not say on which scanner's images the network was trained; compare with NMAR")
    elif preset not in CLINICAL:
        remarks.append(
            f"the network was trained on images of the preset {preset}, which is no clinical scanner's: metal that "
            "starves the detector is new to it; compare with NMAR"
        )
    if "psnr" not in metadata:
        remarks.append("its weights record no validation: nothing tells whether the network is better than LI")
    return tuple(remarks)
