"""Settings of the student LLMs. Reading them imports nothing that trains, so that a build starts fast."""

from pydantic import Field

from endcap_builders.pretrained.checkpoints import HELP
from endcap_builders.step import Settings

EXPORTER = {"optimum.intel": "install it with: pip install --no-deps 'optimum>=2.3,<3' 'optimum-intel>=2.2,<3'"}
"""What exports a student. It requires torchvision, which replaces a CPU build of torch: installed without that."""


class StudentSettings(Settings):
    """Shape, training and export of one student LLM."""

    checkpoint: str = Field(
        "", description=f"causal language model to start from: {HELP}; empty: a small Llama made from scratch"
    )
    lora: bool = Field(True, description="train a given checkpoint with LoRA instead of all its weights")
    vocabulary: int = Field(4096, ge=300, le=65536, description="most tokens of a tokenizer made from scratch")
    hidden: int = Field(256, ge=32, le=4096, description="width of a model made from scratch")
    layers: int = Field(4, ge=1, le=64, description="layers of a model made from scratch")
    heads: int = Field(4, ge=1, le=64, description="attention heads of a model made from scratch")
    train_tokens: int = Field(
        500_000, ge=0, description="tokens to train on (about a minute on two cores); 0: use the checkpoint as it is"
    )
    train_seconds: float = Field(300.0, gt=0, description="most time for training, for machines that are slow or busy")
    tokens_per_step: int = Field(768, ge=256, description="tokens of one optimiser step")
    learning_rate: float = Field(
        0.0, ge=0, description="peak learning rate of AdamW; 0: what suits (from scratch 0.03, LoRA 2e-4, whole 3e-5)"
    )
    matrix_learning_rate: float = Field(0.02, gt=0, description="peak learning rate of Muon, for models from scratch")
    max_tokens: int = Field(1024, ge=64, description="longest example in tokens; longer ones are left out")
    held_out: int = Field(120, ge=1, description="examples kept aside to measure the student on")
    weights: str = Field("int8", pattern="^(int8|int4|fp16)$", description="weight format of the export")

    @property
    def peak_rate(self) -> float:
        """The peak learning rate of AdamW."""
        if self.learning_rate:
            return self.learning_rate
        return (2e-4 if self.lora else 3e-5) if self.checkpoint else 3e-2
