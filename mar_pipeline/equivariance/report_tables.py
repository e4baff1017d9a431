"""The numbers of an equivariance report, and their tables."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

_COLUMNS = ("layer", "fields", "angle_deg", "error", "centred_error", "floor", "centred_floor", "eq_r_db")


@dataclass(frozen=True)
class EquivarianceRow:
    """How far a layer, or the whole network, is from following a rotation of the input.

    Args:
        layer: name.
        fields: (kind, count) of its channels.
        angle_deg: of the rotation, counter-clockwise.
        error: ||r|| / sqrt((||a||^2 + ||b||^2) / 2).
        centred_error: the same with the mean of each field taken off a and b below; sqrt 2 if they are unrelated.
        floor: the error of the layer's maps turned there and back: interpolation alone may make so much.
        centred_floor: the same, centred.
        eq_r_db: 10 log10(range^2 / mean r^2) of output images; None for layers.
    """

    layer: str
    fields: tuple[tuple[str, int], ...]
    angle_deg: float
    error: float
    centred_error: float
    floor: float
    centred_floor: float
    eq_r_db: float | None


@dataclass(frozen=True)
class LabelRow:
    """What a classifier says about rotated samples.

    Args:
        angle_deg: of the rotation, counter-clockwise; 0 are the samples as they are.
        agreement: share of the samples with the same class as unrotated.
        accuracy: share with the right class; None without labels.
    """

    angle_deg: float
    agreement: float
    accuracy: float | None


@dataclass(frozen=True)
class EquivarianceReport:
    """What `equivariance_report` measured.

    Args:
        network: rows of the whole network, one an angle; empty for a classifier.
        layers: rows of the layers, angle by angle.
        labels: rows of a classifier.
        left_out: layers that could not be compared at an angle, and why.
        group_order: t of regular fields.
        input_shapes: of each input.
    """

    network: tuple[EquivarianceRow, ...]
    layers: tuple[EquivarianceRow, ...]
    labels: tuple[LabelRow, ...]
    left_out: tuple[str, ...]
    group_order: int
    input_shapes: tuple[tuple[int, ...], ...]

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON; numbers that are not finite become texts: "inf", "nan"."""
        plain: dict[str, Any] = _as_json(asdict(self))
        return plain

    def to_csv(self) -> str:
        """One line per layer and angle, the whole network first."""
        return reports_to_csv({"": self}, runs=False)

    def to_markdown(self) -> str:
        """Return tables of the whole network, of labels and of the layers."""
        parts = []
        if self.network:
            body: list[Sequence[str]] = [
                (_degrees(row.angle_deg), *map(short, (row.error, row.centred_error, row.centred_floor)), _db(row))
                for row in self.network
            ]
            head = ("Rotation", "Relative error", "Centred", "Floor, centred", "EQ-R (dB)")
            parts.append(f"Whole network:\n\n{_table(head, body)}")
        if self.labels:
            body = [(_degrees(row.angle_deg), _share(row.agreement), _share(row.accuracy)) for row in self.labels]
            parts.append(f"Labels:\n\n{_table(('Rotation', 'Same label', 'Accuracy'), body)}")
        if self.layers:
            parts.append(self._layer_table())
        if self.left_out:
            parts.append("Not compared:\n\n" + "".join(f"- {reason}\n" for reason in self.left_out))
        return "\n".join(parts)

    def _layer_table(self) -> str:
        angles = list(dict.fromkeys(row.angle_deg for row in self.layers))
        cells = {(row.layer, row.angle_deg): row for row in self.layers}
        fields = {row.layer: field_text(row.fields) for row in self.layers}
        body = []
        for layer, own in fields.items():
            found = [cells.get((layer, angle)) for angle in angles]
            body.append((layer, own, *(_cell(row) for row in found)))
        head = ("Layer", "Fields", *map(_degrees, angles))
        return (
            "Layers: relative error, centred (0: equivariant, 1.41: unrelated, 2: opposite); in brackets the floor, "
            f"what interpolation may make. Between multiples of {360 / self.group_order:g}° regular groups count as "
            f"the mean of their orientations:\n\n{_table(head, body)}"
        )


def reports_to_csv(reports: Mapping[str, EquivarianceReport], runs: bool = True) -> str:
    """One line per network, layer and angle, a whole network before its layers.

    Args:
        reports: label of a network -> its report.
        runs: begin with a column of the labels.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, ["run", *_COLUMNS] if runs else _COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for label, report in reports.items():
        for row in (*report.network, *report.layers):
            values = {name: _exact(value) for name, value in asdict(row).items()}
            writer.writerow(values | {"run": label, "fields": field_text(row.fields)})
    return text.getvalue()


def field_text(fields: Sequence[tuple[str, int]]) -> str:
    """Return fields in a few words, such as ``8 regular + 1 trivial``."""
    return " + ".join(f"{count} {kind}" for kind, count in fields)


def short(value: float) -> str:
    """Return a relative error for people: three digits, powers of ten below a thousandth."""
    if value == 0 or value >= 1e-3:
        return f"{value:.3f}"
    return f"{value:.0e}"


def _cell(row: EquivarianceRow | None) -> str:
    if row is None:
        return "–"
    floor = f" ({short(row.centred_floor)})" if row.centred_floor else ""
    return short(row.centred_error) + floor


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        return f"| {' | '.join(padded)} |\n"

    return line(head) + line(["-" * width for width in widths]) + "".join(map(line, body))


def _degrees(angle: float) -> str:
    return f"{angle:g}°"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _db(row: EquivarianceRow) -> str:
    if row.eq_r_db is None:
        return "–"
    return "∞" if row.eq_r_db == math.inf else f"{row.eq_r_db:.2f}"


def _exact(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
