"""Feature maps on devices of PyTorch."""
