"""Relevance: a teacher that grades (query, product) pairs, and the cross-encoder that learns its margins.

The method is that of arXiv 2505.07105: a classifier with soft targets learns from graded human labels, labels mined
pairs, and a smaller cross-encoder learns the *margins* between the products of a query.
"""
