"""Sending to a DICOM server."""
