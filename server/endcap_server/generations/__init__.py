"""Generations of a server's models: composed of a repository, written for Triton, kept to go back to."""
