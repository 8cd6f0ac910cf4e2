"""Tables for regression: features standardised by the training rows, labels in their units."""
