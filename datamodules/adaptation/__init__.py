"""Pairs of domains: a labelled source and an unlabelled target."""
