"""A header taken over into Explicit VR Little Endian: values byte for byte, whatever the source was encoded in.

Values are not decoded on the way: what scanners and archives wrote into them (text in another character set than the
header names, dates with dots, numbers of 17 characters) is no reason to stop, and goes on as it came. Only what cannot
be written at all is left out, and named.
"""

import copy
from collections.abc import Collection
from typing import Any, cast

import numpy as np
from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import correct_ambiguous_vr_element, write_data_element
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import AMBIGUOUS_VR, VR

from mar_pipeline.dicom.reading.files import quiet

CHARACTER_SET = Tag("SpecificCharacterSet")
PIXEL_REPRESENTATION = Tag("PixelRepresentation")
MAX_DEPTH = 16
"""Sequences nested deeper than this are left out: a file may nest thousands."""
NUMBER_BYTES = {
    **dict.fromkeys((VR.US, VR.SS, VR.AT, VR.OW), 2),
    **dict.fromkeys((VR.UL, VR.SL, VR.FL, VR.OL, VR.OF), 4),
    **dict.fromkeys((VR.UV, VR.SV, VR.FD, VR.OV, VR.OD), 8),
}
"""Bytes that swap together when the order of bytes changes."""
WORDS = {VR.OW, VR.OL, VR.OF, VR.OV, VR.OD}
"""What pydicom hands over in the file's own order of bytes."""
NUL_PADDED = {VR.UI, VR.OB, VR.UN}


Element = DataElement | RawDataElement


class _NotWritable(ValueError):
    """A value that has no place in an Explicit VR Little Endian file."""


def name_of(tag: BaseTag) -> str:
    """Keyword of a tag, or its numbers."""
    return keyword_for_tag(tag) or str(tag)


def carried(source: Dataset, keep_private: bool, drop: Collection[int] = ()) -> tuple[Dataset, tuple[str, ...]]:
    """Return the attributes of a source, to be written in Explicit VR Little Endian; the source is left as it is.

    Group lengths, private attributes unless they are to be kept, what belongs to messages and media (groups below 0008)
    and overlays without data of their own (their bits lay in the pixels) do not come along, at any depth.

    Args:
        source: as read.
        keep_private: whether private attributes come along.
        drop: tags of the top level that do not come along.

    Returns:
        The attributes, and the names of those that could not be written.
    """
    tags = [tag for tag in source.keys() if tag not in drop and not embedded_overlay(source, tag)]  # noqa: SIM118
    with quiet():
        return _carried(source, tags, [source], keep_private, default_encoding)


def _carried(
    source: Dataset,
    tags: Collection[BaseTag],
    ancestors: list[Dataset],
    keep_private: bool,
    parent_encoding: str | list[str],
) -> tuple[Dataset, tuple[str, ...]]:
    """`carried` of one level; `ancestors` go from the level itself to the root."""
    elements: dict[BaseTag, Element] = {}
    left_out: list[str] = []
    try:
        encoding = _encoding(source, parent_encoding)
    except Exception:  # not even a text
        encoding, tags = parent_encoding, set(tags) - {CHARACTER_SET}
        left_out.append(name_of(CHARACTER_SET))
    for tag in sorted(tags):
        if not has_place(tag, keep_private):
            continue
        try:
            elements[tag] = _element(_as_read(source, tag), ancestors, keep_private, encoding)
        except Exception:  # a malformed value fails in as many ways as there are types
            left_out.append(name_of(tag))
    made = Dataset(elements, parent_encoding=parent_encoding)
    made.set_original_encoding(False, True, encoding)  # so that pydicom writes raw elements as they are
    return made, tuple(left_out)


def _as_read(dataset: Dataset, tag: BaseTag) -> Element:
    """Return an attribute as it came, its value not decoded if nobody asked for it yet."""
    return cast(Element, dataset.get_item(tag))


def has_place(tag: BaseTag, keep_private: bool) -> bool:
    """Whether an image may have it: no group length, message, medium or delimiter, private only if asked for."""
    if tag.element == 0 or tag.group < 8 or tag.group >= 0xFFFC:
        return False
    return keep_private or not tag.is_private


def embedded_overlay(source: Dataset, tag: BaseTag) -> bool:
    """Whether an attribute is of an overlay that lies in the pixels' upper bits, which are not written."""
    return 0x6000 <= tag.group <= 0x60FF and tag.group % 2 == 0 and (tag.group, 0x3000) not in source


def _encoding(source: Dataset, parent_encoding: str | list[str]) -> str | list[str]:
    """Python's names of the character sets of a level, by pydicom's rules."""
    element = _as_read(source, CHARACTER_SET) if CHARACTER_SET in source else None
    if isinstance(element, RawDataElement):
        element = convert_raw_data_element(element)
    return convert_encodings(element.value) if element is not None else parent_encoding


def _element(element: Element, ancestors: list[Dataset], keep_private: bool, encoding: str | list[str]) -> Element:
    """One attribute to be written in Explicit VR Little Endian.

    Raises:
        Exception: of any type, if the value cannot be written.
    """
    little_endian = ancestors[0].original_encoding[1] is not False
    if isinstance(element, RawDataElement):
        little_endian = element.is_little_endian
        vr = _vr(element, ancestors)
        if vr != VR.SQ:
            return _raw(element.tag, vr, element.value, little_endian, element.length)
        element = convert_raw_data_element(element, encoding=convert_encodings(encoding), ds=ancestors[0])
    if element.VR == VR.SQ:
        return _sequence(element, ancestors, keep_private, encoding)
    element = copy.deepcopy(element)
    if element.VR in AMBIGUOUS_VR:
        element = cast(DataElement, correct_ambiguous_vr_element(element, ancestors[0], little_endian, ancestors))
    if element.VR in WORDS and not little_endian:
        element.value = swapped(element.value, element.VR)
    _try_to_write(element, encoding)
    return element


def _sequence(
    element: DataElement, ancestors: list[Dataset], keep_private: bool, encoding: str | list[str]
) -> DataElement:
    """Return a sequence, its items gone through in the same way; what an item cannot keep fails the whole."""
    if len(ancestors) > MAX_DEPTH:
        raise _NotWritable("nested too deep")
    items = []
    for item in element.value:
        made, left_out = _carried(item, item.keys(), [item, *ancestors], keep_private, encoding)
        if left_out:
            raise _NotWritable("an item with a broken value")
        items.append(made)
    return DataElement(element.tag, VR.SQ, Sequence(items))


def _vr(element: RawDataElement, ancestors: list[Dataset]) -> str:
    """Return the VR that a raw value is to be written with."""
    vr = element.VR
    if vr in (None, VR.UN):  # Implicit VR, or unknown to a program that the file once went through
        if element.tag.is_private:
            return VR.LO if element.tag.is_private_creator else VR.UN
        if vr == VR.UN and not element.is_little_endian:
            raise _NotWritable("bytes in an order that only the writer knew")
        vr = dictionary_VR(element.tag)
    if vr == VR.US_SS:
        return VR.SS if _is_signed(ancestors) else VR.US
    if vr in AMBIGUOUS_VR:
        return VR.OW
    return VR(vr)  # ValueError where a file made up its own


def _is_signed(ancestors: list[Dataset]) -> bool:
    for level in ancestors:
        if PIXEL_REPRESENTATION in level:
            element = _as_read(level, PIXEL_REPRESENTATION)
            if isinstance(element, RawDataElement):
                return any(element.value or b"")
            return bool(element.value)
    return False


def _raw(tag: BaseTag, vr: str, value: bytes | None, little_endian: bool, length: int) -> RawDataElement:
    """Return a value as bytes in little-endian order and of even length."""
    value = value or b""
    if length != len(value):
        raise _NotWritable("a value that was not read, was cut, or is wrapped like compressed pixels")
    if vr in NUMBER_BYTES:
        if len(value) % NUMBER_BYTES[VR(vr)]:
            raise _NotWritable("not a whole number of values")
        value = value if little_endian else swapped(value, vr)
    elif len(value) % 2:
        value += b"\0" if vr in NUL_PADDED else b" "
    return RawDataElement(tag, vr, len(value), value, 0, False, True)


def swapped(value: bytes, vr: str) -> bytes:
    """Return numbers in the other order of bytes."""
    return np.frombuffer(value, f"u{NUMBER_BYTES[VR(vr)]}").byteswap().tobytes()


def _try_to_write(element: DataElement, encoding: str | list[str]) -> None:
    """Raise what pydicom raises for a value that does not fit its VR."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_data_element(buffer, element, encoding)


def item_of(parent: Dataset, keywords: Collection[str]) -> Dataset:
    """Return a sequence item with attributes that a carried header has, as they stand there.

    Args:
        parent: made by `carried`.
        keywords: those that the parent lacks are left out.
    """
    tags = [Tag(keyword) for keyword in keywords if keyword in parent]
    encoding = parent.original_character_set
    item = Dataset({tag: copy.deepcopy(_as_read(parent, tag)) for tag in tags}, parent_encoding=encoding)
    item.set_original_encoding(False, True, encoding)
    return item


def items_of(dataset: Dataset, keyword: str | BaseTag) -> list[Dataset]:
    """Return items of a sequence; none if there is none or it is malformed."""
    value = _get(dataset, keyword)
    return [item for item in value if isinstance(item, Dataset)] if isinstance(value, Sequence) else []


def text_of(dataset: Dataset, keyword: str) -> str:
    """Return a text, values joined by blanks, without control characters; "" if there is none or it is malformed."""
    value = _get(dataset, keyword)
    values = [] if value is None else value if isinstance(value, MultiValue | list) else [value]
    return "".join(letter for letter in " ".join(map(str, values)) if letter.isprintable()).strip()


def _get(dataset: Dataset, keyword: str | BaseTag) -> Any:
    with quiet():
        try:
            return dataset[keyword].value if keyword in dataset else None
        except Exception:  # each type of value fails in its own way
            return None
