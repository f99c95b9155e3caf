"""Models: the posterior over the weights of a feature map."""
