"""`endcap apply`: rolls edited configurations or a new build into a running server, and back.

The models of a *generation* run under names of their own (`rerank__g3`) beside those of the live one; the ensembles
`storefront` and `search` are the switch between them.
"""
