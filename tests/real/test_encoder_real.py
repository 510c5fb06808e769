"""The packaged bi-encoder, exported by the build, against the library that it comes from."""

from pathlib import Path

from endcap_builders.pretrained.checkpoints import checkpoint_of
from endcap_server.engines.bi_encoder import BiEncoder
from sentence_transformers import SentenceTransformer


def test_packaged_encoder_equals_sentence_transformers(build: Path) -> None:
    reference = SentenceTransformer(checkpoint_of("bi_encoder.checkpoint"), device="cpu")
    encoder = BiEncoder(build / "bi_encoder")
    texts = ["red table lamp", "x", "Set of 4 oak chairs with wool cushions, blue", "garden hose 20 m"]
    assert encoder.config.dimension == 384
    assert (encoder.encode(texts) * reference.encode(texts)).sum(axis=1).min() > 0.999
