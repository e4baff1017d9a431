"""Metal masks for slices: a library of implants placed by anatomy, and stacks of given masks."""
