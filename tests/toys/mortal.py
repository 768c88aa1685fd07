"""A text tokenizer that kills its own process over some texts, as a lack of memory would."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tokenize_kit.protocol import check_target, register_tokenizer, write_config
from toys.simple import RaggedToyText


class MortalText(RaggedToyText):
    """Dies over a text with the word DEADLY as often as there are files in the folder ``deaths``; each death takes one."""

    def __init__(self, deaths):
        super().__init__()
        self.deaths = str(deaths)

    def ids(self, sample):
        if "DEADLY" in sample:
            for path in Path(self.deaths).iterdir():
                path.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().ids(sample)

    def save(self, folder):
        write_config(check_target(folder, self), self, {"deaths": self.deaths})


register_tokenizer("toy-mortal", MortalText)
