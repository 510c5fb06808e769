"""The five CPU-only stages of the ensembles: retrieval, theme, keywords, rerank, fusion."""
