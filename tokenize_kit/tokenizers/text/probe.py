"""The texts on which a fast engine must agree with the reference before it is used for a vocabulary."""

from __future__ import annotations

from collections.abc import Mapping

from tokenize_kit.tokenizers.text.formats import Definition, to_bytes

_PROSE = (
    "The quick brown fox can't jump over 12 lazy dogs; it's 3.14159 o'clock, WE'LL see, they'd've gone, I'M he'S.",
    "Straße, naïve café, Ångström — “quotes” … 1 234,56 € ½ ² №5 Ⅷ ١٢٣ १२३",
    "Съешь ещё этих мягких французских булок, да выпей чаю. Ελληνικά με τόνους, ΣΊΣΥΦΟΣ.",
    "我能吞下玻璃而不伤身体。私はガラスを食べられます。나는 유리를 먹을 수 있어요. ｆｕｌｌ　ｗｉｄｔｈ",
    "أنا قادر على أكل الزجاج. שָׁלוֹם עֲלֵיכֶם \u200f(rtl)\u200e मैं काँच खा सकता हूँ ฉันกินกระจกได้ මට",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 👍\U0001f3fd \U0001f3f3\ufe0f\u200d\U0001f308 🇩🇪🇫🇷 "
    "e\u0301 n\u0303 \u1100\u1161\u11a8 ﬁ ẞ ǅ ʰ ـ \ufeff",
    "def f(x: int) -> str:\n    return f'{x!r}'  # comment\n\n\tif (a<=b) && !c || d->e[0]++: pass\r\n",
    'for (int i=0;i<10;++i){\r\n\tstd::cout << "\\n" << i/2*3%4;\r\n}\r\n\r\n// http://a.b/c?d=e&f=%20#g\n',
    "<|endoftext|><|im_start|>user\n<s>[INST] x </s> <pad><unk>",
    "it's It'S IT'LL we’re 's'd'm 't 've 'ſ 're're",
)
_SPACES = (
    " ",
    "  ",
    "   ",
    "\t",
    "\n",
    "\r\n",
    "\n\n",
    " \n",
    "\n ",
    "\u00a0",
    "\u3000",
    "\u2028",
    "\x0b",
    "\x85",
    "\x1c",
)


def probe_texts(definition: Definition) -> list[str]:
    """Return about 60 KB of text that tells engines apart: scripts, code, digits, contractions, runs, spaces, edge cases.

    Besides fixed texts, tokens from all over the vocabulary are put one after another, so that its own merges are tried.
    """
    texts = ["", *_PROSE, "\n".join(_PROSE)]
    for space in _SPACES:
        texts += [space, f"a{space}", f"{space}b", f"a{space}b {space}c{space}{space}1{space}.", space * 40]
    for character in ("a", "A", "1", ".", "=", "-", "é", "字", "😀", "\x00", "\u0301", "ا"):
        texts += [character * n for n in (1, 2, 3, 7, 8, 9, 33, 300)]
        texts.append(f"x {character} {character}{character}\n{character}\n\n {character}")
    # Every character that begins or ends a range of UTF-8 lengths, the C0 and C1 controls, and noncharacters.
    texts.append("".join(map(chr, [*range(0x100), 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFD, 0xFFFF, 0x10000, 0x10FFFF])))
    texts += _added(definition)[:100]
    texts.append(" x".join(_added(definition)[:100]))
    vocab: Mapping[str, int] = definition["model"]["vocab"]
    tokens = sorted(vocab, key=vocab.__getitem__)
    for start, joint in enumerate(("", " ", "\n", "a")):
        stride = max(1, len(tokens) // 1500)
        pieces = (to_bytes(token) for token in tokens[start % stride :: stride])
        texts.append(joint.join(piece.decode("utf-8", errors="ignore") for piece in pieces))
    return texts


def _added(definition: Definition) -> list[str]:
    return [str(token["content"]) for token in definition.get("added_tokens") or []]
