"""The demo's text: a BPE tokenizer on 56 languages, a Transformer over its tokens, and what that goes on to write."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenize_kit.cli.demo.workshop import Workshop
    from tokenize_kit.report import Page

PROMPTS = ("Everyone has the right to", "Toute personne a droit", "Toda persona tiene derecho a")
TOKEN_VIEW = (
    "All human beings are born free and equal in dignity and rights.\n"
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren.\n"
    "Все люди рождаются свободными и равными.\n人人生而自由，在尊严和权利上一律平等。 \U0001f44b\U0001f3fd"
)


class TextPart:
    """Text; the tokenizer is that of the captions and of the spoken words too.

    Args:
        shop: where it works.
    """

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop
        self.source = shop.asset("udhr.txt")
        self._captions = shop.asset("emoji.tar")

    def make(self) -> None:
        """Train, encode, train, generate."""
        shop = self._shop
        shop.stage("train bpe", self._train_bpe)
        shop.stage("encode text", lambda: shop.encode("text", ("text",), self.source))
        model = shop.stage("train text model", lambda: shop.train("text", "text", shop.options.text_steps, context=192))
        self.bits_per_byte = model.metrics["text/bits_per_byte"]
        self._written = shop.stage("generate text", lambda: shop.generate("text", "text", PROMPTS))

    def report(self, page: Page) -> None:
        """Add what the model wrote, and a text in tokens."""
        from tokenize_kit.tokenizers.text.bpe import BPETokenizer

        page.heading("Text")
        page.paragraph(f"Held-out paragraphs cost the model {self.bits_per_byte:.3f} bits a byte.")
        for _, files in self._written:
            for file in files:
                page.quote(file.read_text(encoding="utf-8")[:400])
        page.heading("A text in tokens")
        bpe = BPETokenizer.load(self._shop.tokenizer("text"))
        ids = bpe.encode(TOKEN_VIEW)
        page.tokens(bpe.tokens(ids), ids.tolist())
        page.paragraph(f"{len(TOKEN_VIEW.encode())} bytes in {len(ids)} tokens; hover over one for its id.")

    def _train_bpe(self) -> None:
        from trainers.bpe.train import TrainBPEOptions, train_bpe

        if not self._shop.is_made("text"):
            options = TrainBPEOptions(
                (str(self.source), str(self._captions)),
                str(self._shop.tokenizer("text")),
                vocab_size=self._shop.options.text_vocab,
            )
            train_bpe(options, self._shop.progress)
