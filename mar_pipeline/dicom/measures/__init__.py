"""Numbers that a physicist wants of a slice and a series: rings, regions, volumes, beams; before and after."""
