"""The cross-encoder engine; what it computes is `endcap_server.engines.cross_encoder`."""

from endcap_server.triton.cross_encoder_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
