"""Elements as vectors of numbers: tables of properties, modes of these, compositions."""
