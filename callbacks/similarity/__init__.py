"""Similarity of a network's features within and between classes."""

from .callback import SimilarityMatrices, similarity_matrix, target_similarity

__all__ = ["SimilarityMatrices", "similarity_matrix", "target_similarity"]
