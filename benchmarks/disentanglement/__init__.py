"""Measurements of the disentangling autoencoders and of their metrics."""
