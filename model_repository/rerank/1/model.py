"""The rerank stage; what it computes is `endcap_server.stages.rerank`."""

from endcap_server.stages.rerank import Rerank
from endcap_server.triton.stage_model import stage_model

TritonPythonModel = stage_model(Rerank)
