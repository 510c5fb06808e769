"""The keyword_llm engine; its adapter is `endcap_server.triton.llm_model`."""

from endcap_server.triton.llm_model import llm_model

TritonPythonModel = llm_model("keyword_llm")
