"""What several rooms of callbacks use: batches, loaders, loggers, the style of pictures, HTML."""
