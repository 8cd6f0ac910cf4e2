"""Similarity of a network's features within and between classes."""

from .callback import SimilarityMatrices
from .metrics import feature_rows, similarity_matrix, target_similarity

__all__ = ["SimilarityMatrices", "feature_rows", "similarity_matrix", "target_similarity"]
