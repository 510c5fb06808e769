"""`endcap apply`: rolls edited configurations or a new build out to a running server, and back.

The models of a *generation* have their own names (`rerank__g3`) and run beside those of the live generation. The
ensembles `storefront` and `search` determine which of them requests use.
"""
