"""The sections of the report that `ppl_vae.posterior` writes: one file for each question."""

from ppl_vae.report.section import Section

__all__ = ["Section"]
