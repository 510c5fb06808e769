"""FAISS indexes on a GPU: always an exact search in fp16, faster there than some lists on a CPU."""

from collections.abc import Mapping

import faiss

from endcap_server.engines.encoder_runtime import EngineLoadError

_SCRATCH_BYTES = 256 << 20
_COPY_ROWS = 65_536


def on_gpu(indexes: Mapping[str, faiss.Index]) -> dict[str, faiss.Index]:
    """Copy inner-product indexes to the GPU, as flat indexes of the same rows.

    FAISS has no GPU counterpart of the fp16 indexes that a build writes, so their vectors are read back.

    Raises:
        EngineLoadError: this FAISS is built without GPU support, or there is no GPU.
    """
    if not hasattr(faiss, "StandardGpuResources"):
        raise EngineLoadError(
            "faiss_device gpu: expected a FAISS with GPU support, got faiss-cpu; install faiss-cuda (docs/gpu.md), "
            'or set faiss_device "cpu" in nearest/configs/gpu.pbtxt'
        )
    if not faiss.get_num_gpus():
        raise EngineLoadError("faiss_device gpu: expected an NVIDIA GPU, found none; serve with --profile cpu")
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(_SCRATCH_BYTES)
    config = faiss.GpuIndexFlatConfig()
    config.useFloat16 = True
    config.device = 0
    copies: dict[str, faiss.Index] = {}
    for name, index in indexes.items():
        copies[name] = faiss.GpuIndexFlatIP(resources, index.d, config)
        copy_rows(index, copies[name])
    return copies


def copy_rows(source: faiss.Index, target: faiss.Index) -> None:
    """Add all rows of ``source`` to ``target``, a part at a time."""
    for start in range(0, source.ntotal, _COPY_ROWS):
        target.add(source.reconstruct_n(start, min(_COPY_ROWS, source.ntotal - start)))
