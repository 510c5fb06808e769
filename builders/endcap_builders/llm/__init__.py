"""Student LLMs: tokenizer, model, training, export and evaluation."""
