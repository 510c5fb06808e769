"""The theme_llm engine; its adapter is `endcap_server.triton.theme_llm_model`."""

from endcap_server.triton.theme_llm_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
