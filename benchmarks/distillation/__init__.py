"""Measurements of distillation."""
