"""Training examples of the LLM students, and the teachers that write themes and choose keywords for them."""
