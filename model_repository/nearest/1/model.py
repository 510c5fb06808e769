"""The nearest-neighbour engine; what it computes is `endcap_server.engines.nearest`."""

from endcap_server.triton.nearest_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
