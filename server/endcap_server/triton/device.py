"""Which GPU an engine's process uses."""

import os


def select_gpu(device: int) -> None:
    """Let this process see one GPU alone: the one that `instance_group` names, counted as the server counts them.

    An engine is a process of its own in which nothing has used CUDA yet, so its libraries all find it as device 0.
    """
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    os.environ["CUDA_VISIBLE_DEVICES"] = visible[device] if device < len(visible) else str(device)
