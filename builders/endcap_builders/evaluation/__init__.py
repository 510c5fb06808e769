"""Evaluation of search relevance: baselines, teacher and students on queries that none of them has seen."""
