"""Captions of pictures: bad pictures, addresses, a local checkpoint, an endpoint, and builds that go on."""

import base64
import io
import json
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import pytest
from endcap_builders.captions.captioners import CheckpointCaptioner
from endcap_builders.captions.pictures import PictureError, Pictures
from endcap_builders.captions.settings import CaptionSettings, PictureSettings
from endcap_builders.catalogue import read_catalogue, write_catalogue
from endcap_builders.step import BuildContext, BuildError
from endcap_builders.steps.captions import FILE, STEP
from PIL import Image, ImageDraw
from rich.console import Console


def drawn(colour: str = "red", size: tuple[int, int] = (60, 40), mode: str = "RGB") -> Image.Image:
    """A mug."""
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((size[0] // 4, size[1] // 4, size[0] // 2, size[1] - 4), fill=colour)
    return picture.convert(mode)


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    data = io.BytesIO()
    picture.save(data, kind, **options)
    return data.getvalue()


def pictures(folder: Path, **settings: Any) -> Pictures:
    return Pictures(folder, PictureSettings(**settings))


def test_pictures_of_every_kind_become_small_upright_rgb(tmp_path: Path) -> None:
    read = pictures(tmp_path, side=32)
    frames = [drawn("red"), drawn("blue")]
    clear = Image.new("RGBA", (60, 40), (0, 0, 0, 0))
    turned = Image.Exif()
    turned[0x0112] = 6
    for data in (
        encoded(drawn(mode="CMYK"), "JPEG"),
        encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        encoded(drawn(mode="P")),
        encoded(drawn(mode="1")),
        encoded(drawn(mode="L")),
    ):
        made = read.image(data)
        assert (made.mode, made.size) == ("RGB", (32, 21))
    assert read.image(encoded(clear)).getpixel((5, 5)) == (255, 255, 255)
    assert read.image(encoded(drawn(), "JPEG", exif=turned)).size == (21, 32)
    first = read.image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    red, _, blue = first.getpixel((12, 12))
    assert red > blue


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no picture"),
        (b"<!DOCTYPE html><html>not found</html>", "a web page"),
        (encoded(drawn(size=(300, 300)), "JPEG")[:900], "broken"),
        (encoded(Image.new("1", (9000, 9000))), "too many pixels"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "no picture"),
    ],
    ids=["empty", "html", "truncated", "bomb", "postscript"],
)
def test_what_is_no_picture_has_a_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(PictureError) as error:
        pictures(tmp_path).image(data)
    assert error.value.reason == reason


def test_files_folders_and_archives(tmp_path: Path) -> None:
    data = encoded(drawn())
    (tmp_path / "a.png").write_bytes(data)
    (tmp_path / "many").mkdir()
    (tmp_path / "many/1.png").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("in/b.png", data)
        archive.writestr("zeros.png", bytes(100_000), zipfile.ZIP_DEFLATED)
    (tmp_path.parent / "outside.png").write_bytes(data)
    read = pictures(tmp_path, most_bytes=50_000)
    for address in ("a.png", "many", "all.zip/in/b.png"):
        assert read.data(address) == data
    for address, reason in {
        "none.png": "missing",
        "all.zip/none.png": "missing",
        "all.zip/zeros.png": "too large",
        "../outside.png": "address not allowed",
        "file:///etc/passwd": "address not allowed",
    }.items():
        with pytest.raises(PictureError) as error:
            read.data(address)
        assert error.value.reason == reason


class Shop(BaseHTTPRequestHandler):
    """A host of pictures, and of an endpoint with the OpenAI chat API."""

    asked: ClassVar[list[dict[str, Any]]] = []
    broken: ClassVar[bool] = False

    def do_GET(self) -> None:
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
            return
        self.send_response(404 if self.path == "/none" else 200)
        self.end_headers()
        if self.path == "/slow":
            time.sleep(2)
        elif self.path == "/huge":
            self.wfile.write(bytes(300_000))
        else:
            self.wfile.write(encoded(drawn()))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        parts = {"kind": "mug", "attributes": ["with handle"], "colours": ["red"], "materials": ["clay"]}
        answer = {**parts, "style": "plain", "use": "tea", "occasion": ""}
        content = "no JSON" if self.broken else json.dumps(answer)
        reply = {
            "id": "1", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}],
            "usage": {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500},
        }  # fmt: skip
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def host() -> Iterator[str]:
    Shop.asked, Shop.broken = [], False
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_addresses_are_asked_within_limits(tmp_path: Path) -> None:
    with host() as address:
        read = pictures(tmp_path, private=True, most_bytes=100_000, patience_s=0.5)
        assert read.image(read.data(f"{address}/mug.png")).mode == "RGB"
        for path, reason in {
            "none": "no answer",
            "slow": "no answer",
            "huge": "too large",
            "away": "no answer",
        }.items():
            with pytest.raises(PictureError) as error:
                read.data(f"{address}/{path}")
            assert error.value.reason == reason
        for private in (
            f"{address}/mug.png",
            address.replace("127.0.0.1", "localhost"),
            "http://[::1]/",
            "http://10.0.0.1",
        ):
            with pytest.raises(PictureError) as error:
                pictures(tmp_path).data(private)
            assert error.value.reason == "address not allowed"
    with pytest.raises(PictureError) as error:
        read.data(f"{address}/mug.png")
    assert error.value.reason == "no answer"


def shop(folder: Path, **columns: list[str]) -> Path:
    for place, colour in enumerate(("red", "blue")):
        (folder / f"{place}.png").write_bytes(encoded(drawn(colour)))
    (folder / "page.png").write_bytes(b"<html>")
    products = {"product_id": ["a", "b", "c", "d"], "title": ["Mug", "Cup", "Pot", "Pan"]}
    write_catalogue(folder / "shop", pl.DataFrame({**products, **columns}))
    for path in folder.glob("*.png"):
        path.rename(folder / "shop" / path.name)
    return folder / "shop"


ADDRESSES = ["0.png", "1.png", "page.png", ""]


def run(catalogue: Path, folder: Path, **settings: Any) -> tuple[dict[str, Any], dict[str, str]]:
    output, work = folder / "captions", folder / "work"
    output.mkdir(parents=True, exist_ok=True)
    work.mkdir(exist_ok=True)
    ctx = BuildContext(
        build=folder, catalogue_folder=catalogue, output=output, work=work, seed=7, profile="cpu",
        console=Console(quiet=True), _shared={"catalogue": read_catalogue(catalogue)},
    )  # fmt: skip
    figures = STEP.run(ctx, CaptionSettings(**settings))
    return figures, dict(pl.read_parquet(output / FILE).select("product_id", "caption").iter_rows())


def test_captions_come_from_the_column_or_else_from_the_text(tmp_path: Path) -> None:
    figures, captions = run(shop(tmp_path, caption=["a red  mug", "", "", ""]), tmp_path)
    assert captions == {"a": "a red mug", "b": "", "c": "", "d": ""}
    assert figures["from"] == {"column": 1, "text": 3}


def test_an_endpoint_is_asked_once_for_each_picture_and_title(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    catalogue = shop(tmp_path, image=ADDRESSES)
    with host() as address:
        asked = {"model": "m", "base_url": f"{address}/v1", "batch": 2, "input_price": 1.0, "output_price": 2.0}
        figures, captions = run(catalogue, tmp_path, **asked)
        assert captions["a"] == captions["b"] == "mug, with handle, red, clay, plain, tea"
        assert (captions["c"], captions["d"]) == ("", "")
        assert figures["from"] == {"picture": 2, "text": 2}
        assert figures["without_picture"] == {"a web page": 1}
        assert figures["cost"] == pytest.approx(0.004)
        assert len(Shop.asked) == 2
        content = Shop.asked[0]["messages"][0]["content"]
        seen = Image.open(io.BytesIO(base64.b64decode(content[1]["image_url"]["url"].partition(",")[2])))
        assert seen.size == (60, 40)
        assert Shop.asked[0]["response_format"]["json_schema"]["strict"] is True

        with (tmp_path / "work/captions.jsonl").open("a", encoding="utf-8") as file:
            file.write('{"key": "cut o')  # as a killed build leaves it
        again, same = run(catalogue, tmp_path, **asked)
        assert (same, again["made"], len(Shop.asked)) == (captions, 0, 2)
        (tmp_path / "work/captions.jsonl").unlink()  # as after a finished build
        assert run(catalogue, tmp_path, **asked)[0]["made"] == 0

        Shop.broken = True
        figures, captions = run(catalogue, tmp_path / "other", **asked)
        assert figures["without_picture"] == {"a web page": 1, "no caption": 2}
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(BuildError, match="expected a key in the environment variable OPENAI_API_KEY"):
        run(catalogue, tmp_path, model="m")


def tiny_checkpoint(folder: Path) -> Path:
    """A LLaVA-type checkpoint with random weights, its processor and chat template."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    words = ["<unk>", "<s>", "</s>", "<pad>", "<image>", "red", "blue", "mug", "cup", "clay", "user", "assistant", ":"]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    template = (
        "{% for m in messages %}{{ m['role'] }} : {% for c in m['content'] %}{% if c['type'] == 'image' %}<image> "
        "{% else %}{{ c['text'] }}{% endif %}{% endfor %} {% endfor %}"
        "{% if add_generation_prompt %}assistant :{% endif %}"
    )
    LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
            additional_special_tokens=["<image>"],
        ),
        patch_size=8, vision_feature_select_strategy="default", chat_template=template, num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(**size, image_size=32, patch_size=8, projection_dim=32),
            text_config=LlamaConfig(
                **size, vocab_size=len(words), num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=3
            ),
            image_token_index=4,
        )
    ).save_pretrained(folder)
    return folder


def test_a_local_checkpoint_writes_captions(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint")
    figures, captions = run(shop(tmp_path, image=ADDRESSES), tmp_path, checkpoint=str(checkpoint), new_tokens=5)
    assert figures["made"] == 2
    assert figures["seconds_per_picture"] > 0
    captioner = CheckpointCaptioner(CaptionSettings(checkpoint=str(checkpoint), new_tokens=5))
    alone = [captioner.captions([drawn(colour)], [title])[0] for colour, title in (("red", "Mug"), ("blue", "Cup pot"))]
    # Titles of different lengths share a batch.
    assert captioner.captions([drawn("red"), drawn("blue")], ["Mug", "Cup pot"]) == alone
    assert captions["a"] == alone[0]
    with pytest.raises(BuildError, match=r"captions\.checkpoint: expected a name of `endcap models list`, a folder"):
        run(tmp_path / "shop", tmp_path, checkpoint=str(tmp_path / "none"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BuildError, match=r"captions\.checkpoint: expected an image-text-to-text checkpoint"):
        run(tmp_path / "shop", tmp_path, checkpoint=str(tmp_path / "other"))
