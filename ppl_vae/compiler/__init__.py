"""A Pyro pair's loss and gradients as one compiled graph, checked against the programs."""
