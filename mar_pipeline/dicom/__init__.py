"""CT series in DICOM: found, read slice by slice, corrected and written as derived series."""
