"""Reads checkpoints in Hugging Face's format, without Hugging Face's model code: `config.json` and `*.safetensors`."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def read_files(checkpoint: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the tensors of a checkpoint folder (or of a name in Hugging Face's local cache or hub).

    Raises:
        FileNotFoundError: no checkpoint there.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(str(checkpoint), allow_patterns=["config.json", "*.safetensors*"]))
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"checkpoint: expected a folder or a model's name, got {checkpoint}: {error}"
            ) from None
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder / 'config.json'}: expected a Hugging Face checkpoint, found none")
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config, _read_tensors(folder)


def require(config: Mapping[str, Any], expected: Mapping[str, tuple[Any, ...]]) -> None:
    """Raise ValueError unless the value of each name in ``config`` is one of those given; None: not in there."""
    for name, values in expected.items():
        if config.get(name) not in values:
            known = " or ".join(str(value) for value in values if value is not None)
            raise ValueError(f"config.json, {name}: expected {known}, got {config.get(name)!r}")


def reader_of(
    tensors: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
) -> tuple[Callable[[str], Tensor], Callable[[str], Tensor | None]]:
    """Two functions of a tensor's name: one raises ValueError if there is none, the other returns None."""

    def optional(name: str) -> Tensor | None:
        tensor = tensors.get(name)
        return None if tensor is None else tensor.detach().to(device, dtype).contiguous()

    def get(name: str) -> Tensor:
        tensor = optional(name)
        if tensor is None:
            raise ValueError(f"checkpoint: expected a tensor {name}, got {len(tensors)} others")
        return tensor

    return get, optional


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    elif (folder / "model.safetensors").exists():
        names = ["model.safetensors"]
    else:
        raise FileNotFoundError(f"{folder / 'model.safetensors'}: expected the weights of the checkpoint, found none")
    return {key: tensor for name in names for key, tensor in load_file(folder / name).items()}
