"""What several data modules use: augmentation, collation, samplers, reading of pictures."""
