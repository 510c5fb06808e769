"""Captioners: what writes captions of pictures, a local checkpoint or an endpoint with the OpenAI chat API."""

import base64
import io
import os
from collections.abc import Sequence
from typing import Any, Protocol

from PIL.Image import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from endcap_builders.captions.settings import CaptionSettings
from endcap_builders.pretrained.checkpoints import checkpoint_of
from endcap_builders.step import BuildError

PROMPT = (
    "Describe the product in the picture in one line: what it is, its attributes, colours, materials, style, use and "
    "occasion. Title: {title}"
)


class Captioner(Protocol):
    """Writes captions of pictures."""

    name: str
    """Of the model; captions of another one are made anew."""
    cost: float
    """So far, in the currency of the prices."""

    def captions(self, pictures: Sequence[Image], titles: Sequence[str]) -> list[str]:
        """A caption of each picture, "" if there is none."""
        ...


class CheckpointCaptioner:
    """A local Hugging Face image-text-to-text checkpoint with its processor, and its chat template if it has one."""

    cost = 0.0

    def __init__(self, settings: CaptionSettings):
        """Load the checkpoint; bf16 on a GPU.

        Raises:
            BuildError: It cannot be loaded.
        """
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self._settings, self.name = settings, settings.checkpoint
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        kind = torch.bfloat16 if self._device == "cuda" else torch.float32
        checkpoint = checkpoint_of("captions.checkpoint", settings.checkpoint)
        try:
            self._processor = AutoProcessor.from_pretrained(checkpoint)
            model: Any = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=kind)
        except (OSError, ValueError, KeyError) as error:
            raise BuildError(
                f"captions.checkpoint: expected an image-text-to-text checkpoint in {settings.checkpoint!r}, "
                f"got {type(error).__name__}: {str(error).splitlines()[0][:200]}"
            ) from error
        self._model: Any = model.to(self._device).eval()
        # Answers follow the prompts, so shorter prompts are padded on the left.
        self._processor.tokenizer.padding_side = "left"

    def captions(self, pictures: Sequence[Image], titles: Sequence[str]) -> list[str]:
        """As :meth:`Captioner.captions`, in one batch."""
        import torch

        inputs = self._processor(
            text=[self._prompt(title) for title in titles], images=list(pictures), return_tensors="pt", padding=True
        ).to(self._device)
        with torch.inference_mode():
            made = self._model.generate(**inputs, max_new_tokens=self._settings.new_tokens, do_sample=False)
        answers = self._processor.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [" ".join(answer.split()) for answer in answers]

    def _prompt(self, title: str) -> str:
        text = PROMPT.format(title=title)
        if not getattr(self._processor, "chat_template", None):
            return text
        content = [{"type": "image"}, {"type": "text", "text": text}]
        made: str = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        return made


class _Caption(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: str
    attributes: list[str]
    colours: list[str]
    materials: list[str]
    style: str
    use: str
    occasion: str

    def text(self) -> str:
        """All parts as one line."""
        parts = [self.kind, *self.attributes, *self.colours, *self.materials, self.style, self.use, self.occasion]
        return ", ".join(part.strip() for part in parts if part.strip())


class EndpointCaptioner:
    """An endpoint with the OpenAI chat API, image input and structured output; one request for each picture."""

    def __init__(self, settings: CaptionSettings):
        """Open the client.

        Raises:
            BuildError: There is no key.
        """
        from openai import OpenAI

        key = os.environ.get(settings.key_variable, "")
        if not key:
            raise BuildError(
                f"captions.model: expected a key in the environment variable {settings.key_variable}, found none; "
                "set it, or leave captions.model empty"
            )
        self._settings, self.name, self.cost = settings, settings.model, 0.0
        self._client = OpenAI(
            api_key=key, base_url=settings.base_url or None, max_retries=settings.retries, timeout=settings.timeout_s
        )

    def captions(self, pictures: Sequence[Image], titles: Sequence[str]) -> list[str]:
        """As :meth:`Captioner.captions`, all pictures at a time.

        Raises:
            BuildError: The endpoint fails after all attempts; what was made before is kept.
        """
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(max(1, len(pictures))) as pool:
            return list(pool.map(self._caption, pictures, titles))

    def _caption(self, picture: Image, title: str) -> str:
        from openai import OpenAIError

        data = io.BytesIO()
        picture.save(data, "JPEG", quality=90)
        image = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
        content: Any = [
            {"type": "text", "text": PROMPT.format(title=title)},
            {"type": "image_url", "image_url": {"url": image}},
        ]
        form: Any = {
            "type": "json_schema",
            "json_schema": {"name": "caption", "strict": True, "schema": _Caption.model_json_schema()},
        }
        try:
            reply = self._client.chat.completions.create(
                model=self.name, messages=[{"role": "user", "content": content}], response_format=form
            )
        except OpenAIError as error:
            raise BuildError(
                f"captions: {self.name} at {self._client.base_url}: {type(error).__name__}: {error}; "
                "the captions so far are kept, the next build goes on from there"
            ) from error
        if reply.usage:
            self.cost += reply.usage.prompt_tokens * self._settings.input_price / 1_000_000
            self.cost += reply.usage.completion_tokens * self._settings.output_price / 1_000_000
        answer = reply.choices[0].message.content if reply.choices else ""
        try:
            return _Caption.model_validate_json(answer or "").text()
        except ValidationError:
            return ""


def captioner_of(settings: CaptionSettings) -> Captioner | None:
    """The captioner that the settings name; None without any."""
    if settings.checkpoint:
        return CheckpointCaptioner(settings)
    return EndpointCaptioner(settings) if settings.model else None
