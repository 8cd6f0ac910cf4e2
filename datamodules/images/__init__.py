"""Images with labels: published sets, folders, few labels, and the out-of-distribution sets beside them."""
