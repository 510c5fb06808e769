"""Settings of the step `captions`. Reading them imports nothing that reads pictures, so that a build starts fast."""

from typing import Self

from pydantic import Field, model_validator

from endcap_builders.pretrained.checkpoints import HELP
from endcap_builders.step import Settings


class PictureSettings(Settings):
    """Limits of the pictures."""

    most_bytes: int = Field(20_000_000, ge=1, description="longest file or download of a picture")
    most_pixels: int = Field(50_000_000, ge=1, description="most pixels of a picture")
    side: int = Field(512, ge=16, le=4096, description="pixels of the longer side that the captioner sees")
    patience_s: float = Field(10, gt=0, description="patience for one picture's address, seconds, in all")
    private: bool = Field(False, description="whether pictures may come from addresses of private networks")


class CaptionSettings(PictureSettings):
    """Options of captioners; without one, captions are those of the catalogue's column, or the words of the text."""

    checkpoint: str = Field("", description=f"image-text-to-text checkpoint (BLIP-2, LLaVA, ...): {HELP}")
    batch: int = Field(8, ge=1, le=1024, description="pictures at a time")
    new_tokens: int = Field(64, ge=1, le=1024, description="longest caption of a checkpoint, in tokens")
    model: str = Field("", description="model of an endpoint with the OpenAI chat API and image input")
    base_url: str = Field("", description="its address; empty: the library's default (or OPENAI_BASE_URL)")
    key_variable: str = Field("OPENAI_API_KEY", description="environment variable that holds the key")
    retries: int = Field(6, ge=0, le=20, description="attempts after the first, with growing pauses")
    timeout_s: float = Field(60, gt=0, description="patience for one answer, seconds")
    input_price: float = Field(0.25, ge=0, description="price of a million prompt tokens")
    output_price: float = Field(2.0, ge=0, description="price of a million answer tokens")

    @model_validator(mode="after")
    def _one_captioner(self) -> Self:
        if self.checkpoint and self.model:
            raise ValueError("expected checkpoint or model, got both; leave one empty")
        return self
