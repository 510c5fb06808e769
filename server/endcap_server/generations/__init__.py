"""Generations of a server's models: composed from a repository, rendered for Triton, kept for rollbacks."""
