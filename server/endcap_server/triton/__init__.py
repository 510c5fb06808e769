"""Adapters between Triton's Python backend and the plain stages and engines.

Only a running stub can import these modules: `triton_python_backend_utils` exists nowhere else. Each `model.py` of
`model_repository/` is one call into this package.
"""
