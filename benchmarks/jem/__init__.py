"""Measurements of JEM."""
