"""Lossless compression with a trained pair: bits-back coding in whole numbers."""

from ppl_vae.coding.bits_back import decode, encode
from ppl_vae.coding.conversion import integer_pair
from ppl_vae.coding.integer_pair import IntegerPair

__all__ = ["IntegerPair", "decode", "encode", "integer_pair"]
