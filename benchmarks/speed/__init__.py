"""Measurements of what all papers share: loaders, overhead of the trainer, long runs."""
