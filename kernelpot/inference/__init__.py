"""Conditioning on labels: from a prior covariance to a posterior, by several ways."""
