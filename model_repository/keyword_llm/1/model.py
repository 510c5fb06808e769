"""The keyword_llm engine; what it computes is `endcap_server.engines.llm`."""

from endcap_server.triton.llm_model import llm_model

TritonPythonModel = llm_model("keyword_llm")
