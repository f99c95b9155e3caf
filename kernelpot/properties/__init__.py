"""Models of one property of a structure: kernels between structures, ridge regression, Gaussian processes, classes."""
