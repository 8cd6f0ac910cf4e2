"""Measurements of the histogram loss."""
