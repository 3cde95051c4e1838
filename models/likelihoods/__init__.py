"""Likelihoods p(x|z), one a file: from a decoder's features to a distribution over images."""
