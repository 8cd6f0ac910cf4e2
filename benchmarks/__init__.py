"""Measurements that can be repeated: each paper's results, step times, data loading, overhead."""
