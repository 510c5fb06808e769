"""The nearest engine; its adapter is `endcap_server.triton.nearest_model`."""

from endcap_server.triton.nearest_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
