"""What the LLM students learn from: a teacher that writes themes and chooses keywords, and examples made with it."""
