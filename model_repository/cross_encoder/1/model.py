"""The cross_encoder engine; its adapter is `endcap_server.triton.cross_encoder_model`."""

from endcap_server.triton.cross_encoder_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
