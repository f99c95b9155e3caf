"""What no set of blocks can beat."""
