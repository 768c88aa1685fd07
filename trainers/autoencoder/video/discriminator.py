"""The discriminators of clips: patches of clips with their motion, of each frame by itself, or both."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from torch import Tensor, nn

from trainers.autoencoder.patches import PatchDiscriminator, Verdict, discriminator_config


class ClipDiscriminator(nn.Module):
    """Judges clips and pictures by one or two `PatchDiscriminator`.

    Args:
        judges: ``clips``, ``frames`` or ``both``.
        size: the shorter side of a frame, in pixels.
        channels: of a frame.

    Raises:
        ValueError: the frames are too small to be judged.
    """

    def __init__(self, judges: str, size: int, channels: int) -> None:
        super().__init__()
        kinds = ("clips", "frames") if judges == "both" else (judges,)
        self.judges = nn.ModuleDict(
            {kind: PatchDiscriminator(discriminator_config(size, channels, clips=kind == "clips")) for kind in kinds}
        )

    def forward(self, clips: Tensor) -> list[Verdict]:
        """Return what each discriminator says of clips, float (B, C, T, H, W).

        The logits and features of frames have the axes (B, T, ...): what is said of a clip is said of all of its frames.
        """
        judges = cast("Iterable[PatchDiscriminator]", self.judges.values())
        return [judge(clips) if judge.config.clips else _of_frames(judge, clips) for judge in judges]


def _of_frames(judge: PatchDiscriminator, clips: Tensor) -> Verdict:
    frames = clips.transpose(1, 2)
    verdict: Verdict = judge(frames.flatten(0, 1))
    logits, *features = (
        part.reshape(*frames.shape[:2], *part.shape[1:]) for part in (verdict.logits, *verdict.features)
    )
    return Verdict(logits, tuple(features))
