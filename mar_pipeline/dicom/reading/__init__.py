"""A folder of DICOM files: which CT series it holds, and their pixels."""
