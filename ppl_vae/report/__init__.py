"""The sections of the report that `ppl_vae.posterior` writes: one file for each question."""

__all__: list[str] = []
