"""SOAP: the power spectrum of the neighbour density."""
