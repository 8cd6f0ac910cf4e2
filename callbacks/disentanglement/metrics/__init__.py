"""Metrics of disentanglement, as functions of codes (n, L) and factors (n, K)."""
