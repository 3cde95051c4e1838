"""Networks between images, latent vectors and features, one a file."""
