"""`mar equivariance`: how far trained networks are from equivariant, as tables and figures."""
