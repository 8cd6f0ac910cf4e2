"""Measurements of local error signals."""
