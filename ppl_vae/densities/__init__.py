"""log p and log q of a pair at given or drawn latents, per datum."""
