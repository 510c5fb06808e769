"""The five light stages of an endcap ensemble: retrieval, theme, keywords, rerank, fusion."""
