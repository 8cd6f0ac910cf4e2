"""What several benchmarks use: timing, runs that go on where they were stopped, tables."""
