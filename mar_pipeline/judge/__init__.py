"""Whether a correction helped, judged from the original and the result alone; knows neither DICOM nor the method."""
