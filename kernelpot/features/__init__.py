"""Feature maps and the rows a structure gives."""
