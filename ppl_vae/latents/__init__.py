"""What the latents of a run hold: codes of images, and images of codes."""
