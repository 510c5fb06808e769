"""The keywords stage; what it computes is `endcap_server.stages.keywords`."""

from endcap_server.stages.keywords import Keywords
from endcap_server.triton.stage_model import stage_model

TritonPythonModel = stage_model(Keywords)
