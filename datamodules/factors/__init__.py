"""Images with known factors of variation, drawn or read."""
