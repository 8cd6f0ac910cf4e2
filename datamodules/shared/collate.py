"""Collation: batches that a data set returns as they are."""

from typing import Any


def as_is(batch: Any) -> Any:
    """Collates nothing: ``__getitems__`` gave a batch already."""
    return batch


def listed(items: list) -> str:
    """The first twelve of many items, for a message."""
    return ", ".join(map(str, items[:12])) + (f" and {len(items) - 12} more" if len(items) > 12 else "")
