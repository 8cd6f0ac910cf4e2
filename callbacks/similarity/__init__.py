"""Similarity of a network's features within and between classes."""

from . import report as report  # adds the room's section to the report
from .callback import SimilarityMatrices, similarity_matrix, target_similarity

__all__ = ["SimilarityMatrices", "similarity_matrix", "target_similarity"]
