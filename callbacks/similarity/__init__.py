"""Similarity of a network's features within and between classes."""

from . import report as report  # adds the room's section to the report
from .callback import SimilarityMatrices
from .metrics import feature_rows, similarity_matrix, target_similarity

__all__ = ["SimilarityMatrices", "feature_rows", "similarity_matrix", "target_similarity"]
