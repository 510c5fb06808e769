"""Captions as categorical features of a ranker (arXiv 2605.09338): tokens, a DLRM-type ranker, and their evaluation."""
