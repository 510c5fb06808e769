"""The fusion stage; what it computes is `endcap_server.stages.fusion`."""

from endcap_server.stages.fusion import Fusion
from endcap_server.triton.stage_model import stage_model

TritonPythonModel = stage_model(Fusion)
