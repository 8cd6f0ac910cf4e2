"""What `train.py` adds to Lightning's command line."""
