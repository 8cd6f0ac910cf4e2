"""The learning rate over a run."""


def learning_rate_factor(step: int, epoch: int, warmup_steps: int, decay_epochs: list[int], decay_rate: float) -> float:
    """Linear warm-up from 0 over ``warmup_steps``, then ``decay_rate`` for each decay epoch that has begun."""
    if step <= warmup_steps and warmup_steps > 0:
        return step / warmup_steps
    return decay_rate ** sum(epoch >= decay for decay in decay_epochs)
