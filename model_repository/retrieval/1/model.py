"""The retrieval stage; what it computes is `endcap_server.stages.retrieval`."""

from endcap_server.stages.retrieval import Retrieval
from endcap_server.triton.stage_model import stage_model

TritonPythonModel = stage_model(Retrieval)
