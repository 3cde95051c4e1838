"""Inference and its diagnostics, for any Pyro pair: gaps, NUTS, AIS, k-hat, calibration."""
