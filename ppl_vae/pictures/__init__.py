"""Pictures: figures, plots, the graphical model, the matrix of a convolution."""
