"""The theme stage; what it computes is `endcap_server.stages.theme`."""

from endcap_server.stages.theme import Theme
from endcap_server.triton.stage_model import stage_model

TritonPythonModel = stage_model(Theme)
