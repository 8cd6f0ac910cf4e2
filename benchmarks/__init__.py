"""Measurements side by side in one run: step time, data loading, overhead, and the papers' figures."""
