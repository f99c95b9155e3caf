"""ACSF: atom-centred symmetry functions of distances and angles."""
