"""How a derived series was made: what all its headers say of it, its identifiers and its number."""

import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import numpy as np
from pydicom.uid import RE_VALID_UID

from mar_pipeline.dicom.identifiers import MANUFACTURER, derived_uid

STATEMENT = "Research software, not a medical device: research use only; review with the original series."
MAX_SERIES_NUMBER = 2**31 - 1
MAX_SUFFIX = 48
"""Leaves the source's SeriesDescription a quarter of its 64 characters."""
THRESHOLD_OPTION = "--metal-threshold"


@dataclass(frozen=True)
class Derivation:
    """How one derived series was made; all that is said of it in its headers follows from this.

    Args:
        method: such as `NMAR`; 32 letters, digits and `_ . + -` at most.
        version: of this program, printable ASCII.
        configuration_sha256: hash of the settings, hexadecimal.
        weights_sha256: hash of the network's weights, None if there is no network.
        series_uid: of the derived series, from `series_uid`.
        series_number: of the derived series, from `series_number`.
        created: when; a naive one is this computer's local time.
        keep_private: whether private attributes come along.
        threshold_hu: HU from which on a voxel may be metal; None where the user gave the metal.
        options: those that differ from the defaults, as on the command line: ``--metal-threshold 3000``.
    """

    method: str
    version: str
    configuration_sha256: str
    weights_sha256: str | None
    series_uid: str
    series_number: int
    created: datetime
    keep_private: bool = False
    threshold_hu: float | None = None
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for what, value, pattern in (
            ("method", self.method, r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,31}"),
            ("version", self.version, r"[!-\[\]-~]{1,32}"),
            ("configuration_sha256", self.configuration_sha256, r"[0-9a-f]{64}"),
            ("weights_sha256", self.weights_sha256 or "0" * 64, r"[0-9a-f]{64}"),
        ):
            if not re.fullmatch(pattern, value):
                raise ValueError(f"{what}: got {value!r}; expected {pattern}")
        for option in self.options:
            if not re.fullmatch(r"--[a-z0-9-]+( [!-\[\]-~]{1,64})?", option):
                raise ValueError(f"options: got {option!r}; expected an option and its value in printable ASCII")
        if len(self.series_uid) > 64 or not re.fullmatch(RE_VALID_UID, self.series_uid):
            raise ValueError("series_uid: expected a UID")
        if not 0 <= self.series_number <= MAX_SERIES_NUMBER:
            raise ValueError(f"series_number: got {self.series_number}; expected 0 .. {MAX_SERIES_NUMBER}")

    @property
    def suffix(self) -> str:
        """What the SeriesDescription ends in: the method, a threshold and a mark of any other options, 48 characters.

        Series of other options can so be told apart in a list of an archive. A long name of a method gives way.
        """
        mark = ""
        if self.own_threshold:
            mark += f" {self.threshold_hu:g}HU"
        if len(self.options) > self.own_threshold:
            mark += f" cfg{self.configuration_sha256[:4]}"
        ending = f"{mark} (RESEARCH)"
        return f"MAR-{self.method}"[: MAX_SUFFIX - len(ending)] + ending

    @property
    def own_threshold(self) -> bool:
        """Whether the threshold was given and is not the default."""
        return self.threshold_hu is not None and any(one.split()[0] == THRESHOLD_OPTION for one in self.options)

    @property
    def parameters(self) -> str:
        """Threshold and options in plain words."""
        metal = "given by the user" if self.threshold_hu is None else f"above {self.threshold_hu:g} HU"
        return f"metal {metal}; options: {', '.join(self.options) or 'defaults'}"

    @property
    def description(self) -> str:
        """DerivationDescription: method, version, settings, short hashes and what the image may be used for."""
        weights = f"weights {self.weights_sha256[:12]}" if self.weights_sha256 else "no network"
        return (
            f"Metal artifact reduction by {self.method}, {MANUFACTURER} {self.version}, {weights}, "
            f"{self.parameters}, configuration {self.configuration_sha256[:12]}. {STATEMENT}"
        )

    def created_at(self, offset: str | None) -> datetime:
        """Local time at an offset from UTC such as +0130, or of this computer; without its zone."""
        zone = None
        if offset and re.fullmatch(r"[+-](0\d|1[0-4])[0-5]\d", offset):
            minutes = int(offset[1:3]) * 60 + int(offset[3:])
            zone = timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes))
        return self.created.astimezone(zone).replace(tzinfo=None)


def series_uid(
    source_series_uid: str,
    source_sop_uids: Sequence[str],
    method: str,
    version: str,
    configuration_sha256: str,
    weights_sha256: str | None,
    pixel_sha256: str,
) -> str:
    """SeriesInstanceUID of a derived series: the same input and result give the same one.

    Args:
        source_series_uid: of the source.
        source_sop_uids: SOPInstanceUIDs of its slices, in order.
        method: as of `Derivation`, like those that follow.
        version: see there.
        configuration_sha256: see there.
        weights_sha256: see there.
        pixel_sha256: hash of the stored values of all derived slices, in order.
    """
    made = (method, version, configuration_sha256, weights_sha256 or "", pixel_sha256)
    return derived_uid("series", source_series_uid, *made, *source_sop_uids)


def series_number(source_number: int | None, taken: Collection[int]) -> int:
    """SeriesNumber of a derived series: 1000 above the source's, or the next one free.

    Args:
        source_number: None if the source has none.
        taken: series numbers of the study, those already given to derived series among them.
    """
    number = 1000 + max(source_number or 0, 0)
    if number > MAX_SERIES_NUMBER:
        number = 1000
    while number in taken:
        number += 1
    return number


def pixels_sha256(stored: np.ndarray) -> str:
    """Hash of stored values, whatever their number type."""
    return hashlib.sha256(np.ascontiguousarray(stored, "<i4").tobytes()).hexdigest()


def instance_uid(source_uid: str, stored: np.ndarray, derivation: Derivation) -> str:
    """SOPInstanceUID of a derived slice, which follows from its pixels too.

    Args:
        source_uid: SOPInstanceUID of the source slice.
        stored: stored values (rows, columns).
        derivation: its series UID stands for method, version, configuration and weights.
    """
    made = (derivation.method, derivation.version, derivation.configuration_sha256, derivation.weights_sha256 or "")
    return derived_uid("slice", source_uid, derivation.series_uid, *made, repr(stored.shape), pixels_sha256(stored))
