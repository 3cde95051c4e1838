"""Measures of a pair on data: the ELBO and log p(x), scores, clustering."""
