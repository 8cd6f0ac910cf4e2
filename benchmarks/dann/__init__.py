"""Measurements of domain adaptation."""
