"""The tables that `mar equivariance` writes."""

import statistics
from collections.abc import Mapping, Sequence

from mar_pipeline.equivariance.report_tables import EquivarianceReport
from mar_pipeline.evaluation.score_tables import markdown_table
from mar_pipeline.tasks.metrics import MU_RANGE_PER_CM


def summary(reports: Mapping[str, EquivarianceReport]) -> list[list[str]]:
    """Return whole networks, and the mean of their layers.

    Args:
        reports: label of a run -> what was measured.

    Returns:
        Header, then a line for each run and angle.
    """
    cells = [["run", "rotation", "error", "centred", "floor", "EQ-R (dB)", "mean layer"]]
    for label, report in reports.items():
        for row in report.network:
            layers = [own.centred_error for own in report.layers if own.angle_deg == row.angle_deg]
            numbers = (row.error, row.centred_error, row.centred_floor)
            cells.append(
                [
                    label,
                    f"{row.angle_deg:g}°",
                    *(f"{number:.4f}" for number in numbers),
                    "-" if row.eq_r_db is None else f"{row.eq_r_db:.2f}",
                    f"{statistics.fmean(layers):.4f}" if layers else "-",
                ]
            )
    return cells


def to_markdown(reports: Mapping[str, EquivarianceReport], names: Sequence[str]) -> str:
    """Return equivariance.md: what the numbers are, the whole networks side by side, then each run with its layers.

    Args:
        reports: label of a run -> what was measured.
        names: of the pairs that were turned.
    """
    words = (
        f"Turned pairs: {', '.join(names)}. Relative error ||a - b|| / sqrt((||a||² + ||b||²) / 2), a the turned "
        "output, b the output of the turned input: 0 for an equivariant network. The output is the correction: the "
        "network's image less the LI image, which itself turns exactly and would hide the network; it counts outside "
        "the metal. "
        "Centred: with the means taken off below; 1.41 for unrelated maps. Floor: what interpolation alone may make, "
        f"centred. EQ-R: 10 log10(R² / mean (a - b)²), R = {MU_RANGE_PER_CM:g}/cm as for PSNR. Mean layer: of the "
        "centred errors of the convolutions whose turning is known."
    )
    parts = [f"# Rotation equivariance\n\n{words}\n\n{markdown_table(summary(reports))}\n"]
    parts += [f"## {label}\n\n{report.to_markdown()}" for label, report in reports.items()]
    return "\n".join(parts)
