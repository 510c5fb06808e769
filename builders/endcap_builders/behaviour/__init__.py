"""Shopper behaviour from a catalogue's events: tables of products, and training examples of the ranker."""
