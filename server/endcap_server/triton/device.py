"""Which GPU an engine's process uses."""

import os


def select_gpu(device: int) -> None:
    """Make only the GPU of `instance_group` visible to this process, numbered as in the server.

    Call it before anything uses CUDA in this process. All libraries then see the GPU as device 0.
    """
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    os.environ["CUDA_VISIBLE_DEVICES"] = visible[device] if device < len(visible) else str(device)
