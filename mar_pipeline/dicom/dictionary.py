"""Attributes that are younger than pydicom's dictionary."""

from pydicom.datadict import DicomDictionary, add_dict_entries

_YOUNGER = {
    0x00189390: ("SQ", "1", "Metal Artifact Reduction Sequence", "", "MetalArtifactReductionSequence"),
    0x00189391: ("CS", "1", "Metal Artifact Reduction Applied", "", "MetalArtifactReductionApplied"),
    0x00189392: (
        *("SQ", "1", "Metal Artifact Reduction Algorithm Identification Sequence", ""),
        "MetalArtifactReductionAlgorithmIdentificationSequence",
    ),
}
"""Of DICOM 2026b (PS3.6): tag -> VR, multiplicity, name, retired, keyword."""


def add_younger_attributes() -> None:
    """Add the attributes of DICOM 2026b to pydicom's dictionary, those that it has excepted.

    Calling it again changes nothing. Without it, pydicom reads them from Implicit VR as bytes without meaning.

    >>> from pydicom.datadict import keyword_for_tag
    >>> add_younger_attributes()
    >>> keyword_for_tag(0x00189391)
    'MetalArtifactReductionApplied'
    """
    add_dict_entries({tag: entry for tag, entry in _YOUNGER.items() if tag not in DicomDictionary})


add_younger_attributes()
