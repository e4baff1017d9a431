"""What is dropped, added and moved in a derived header, and the codes it uses: data, no logic."""

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.tag import Tag

from mar_pipeline.dicom import dictionary as _dictionary  # noqa: F401  (keywords below are of it)

IMAGE_TYPE = ("DERIVED", "SECONDARY", "AXIAL")
CODING_SCHEME = "99MARPIPELINE"
MAR_CODE = Code("MAR", CODING_SCHEME, "Metal artifact reduction")
SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")
ACQUISITION_EQUIPMENT = Code("109101", "DCM", "Acquisition Equipment")
PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")
NETWORK_FAMILY = Code(codes.DCM.ArtificialIntelligence.value, "DCM", "Artificial Intelligence")
"""Family of networks' algorithms; the standard has none for interpolation in the projections, which gets `MAR_CODE`."""
LOSSY_COMPRESSION = Code("113040", "DCM", "Lossy Compression")

STALE = (
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "SmallestPixelValueInSeries",
    "LargestPixelValueInSeries",
    "SmallestImagePixelValueInPlane",
    "LargestImagePixelValueInPlane",
    "HistogramSequence",
    "IconImageSequence",
    "DigitalSignaturesSequence",
    "MACParametersSequence",
    "ReferencedPerformedProcedureStepSequence",
    "OriginalAttributesSequence",
    "PixelDataProviderURL",
    "LengthToEnd",
    "DataSetTrailingPadding",
    "InstanceCreatorUID",
)
"""True of the source only."""
PIXELS = (
    "PixelData",
    "FloatPixelData",
    "DoubleFloatPixelData",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)
NOT_IN_THIS_IOD = ("PresentationIntentType", "ReconstructionAlgorithm")
DROPPED = (*STALE, *PIXELS, *NOT_IN_THIS_IOD)
TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
    "PositionReferenceIndicator",
    "InstanceNumber",
    "SliceThickness",
    "KVP",
    "AcquisitionNumber",
)
"""What a CT image has, if only empty."""
OF_THE_SCANNER = (
    "StationName",
    "DeviceSerialNumber",
    "DeviceUID",
    "UDISequence",
)
"""Identifies the machine that Manufacturer names, so moves with it to ContributingEquipmentSequence."""
ALSO_OF_THE_SCANNER = (
    "Manufacturer",
    "ManufacturerModelName",
    "SoftwareVersions",
    "InstitutionName",
    "InstitutionAddress",
    "InstitutionalDepartmentName",
    "SpatialResolution",
    "DateOfLastCalibration",
    "TimeOfLastCalibration",
)
LOSSY_SYNTAXES = {
    **{f"1.2.840.10008.1.2.4.{number}": "ISO_10918_1" for number in (*range(50, 57), *range(59, 65))},
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
    "1.2.840.10008.1.2.4.91": "ISO_15444_1",
    "1.2.840.10008.1.2.4.93": "ISO_15444_2",
    "1.2.840.10008.1.2.4.203": "ISO_15444_15",
    "1.2.840.10008.1.2.4.112": "ISO_18181_1",
}
"""Transfer syntaxes that may lose, and the standard that LossyImageCompressionMethod names."""
OF_THE_STUDY = frozenset(
    Tag(keyword)
    for keyword in (
        "SpecificCharacterSet",
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
        "IssuerOfAccessionNumberSequence",
        "ReferringPhysicianName",
        "ReferringPhysicianIdentificationSequence",
        "ConsultingPhysicianName",
        "ConsultingPhysicianIdentificationSequence",
        "TimezoneOffsetFromUTC",
        "StudyDescription",
        "ProcedureCodeSequence",
        "PhysiciansOfRecord",
        "PhysiciansOfRecordIdentificationSequence",
        "NameOfPhysiciansReadingStudy",
        "PhysiciansReadingStudyIdentificationSequence",
        "AdmittingDiagnosesDescription",
        "AdmittingDiagnosesCodeSequence",
        "ReferencedStudySequence",
        "StudyInstanceUID",
        "StudyID",
        "RequestingService",
        "RequestingServiceCodeSequence",
        "ReasonForPerformedProcedureCodeSequence",
        "LongitudinalTemporalInformationModified",
    )
)
"""What belongs to the study; groups 0010 and 0012 belong to the patient, to a trial and to de-identification."""
