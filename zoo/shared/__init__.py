"""What several papers use: batches, losses, evaluation, schedules, arguments, processes, checkpoints, networks."""
