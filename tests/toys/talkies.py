"""Small films with sound: lossless, so that tests can say what comes out to the bit."""

from fractions import Fraction

import av
import numpy as np
import torch

SIDE = 8
SOUND_RATE = 8000


def numbered(frames, side=SIDE):
    """Frames that say their number: every value of frame t is 2 t, uint8 (T, 3, side, side)."""
    values = torch.arange(frames) * 2 % 256
    return values.to(torch.uint8)[:, None, None, None].expand(frames, 3, side, side).contiguous()


def numbers_of(frames):
    """The numbers of frames of `numbered`."""
    return [int(frame[0, 0, 0]) // 2 for frame in frames]


def ramp(samples):
    """A sound whose sample n is n / 32768, so that each says its place; float32 (samples,)."""
    return torch.arange(samples).float() / 32_768


def write_film(path, frames, rate=12, sound=None, begins=0.0):
    """Write FFV1 and 16-bit PCM into a Matroska file.

    Args:
        path: ends in .mkv.
        frames: uint8 (T, 3, H, W).
        rate: frames a second.
        sound: samples at 8000 Hz, float32 (N,), or None.
        begins: seconds at which the sound begins.
    """
    with av.open(str(path), "w") as output:
        video = output.add_stream("ffv1", rate=Fraction(rate).limit_denominator(1001))
        video.height, video.width = frames.shape[2:]
        video.pix_fmt = "bgr0"
        track = None if sound is None else output.add_stream("pcm_s16le", rate=SOUND_RATE, layout="mono")
        packets = []
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame.permute(1, 2, 0).numpy(), "rgb24").reformat(format="bgr0")
            picture.pts, picture.time_base = number, 1 / Fraction(rate).limit_denominator(1001)
            packets += video.encode(picture)
        packets += video.encode(None)
        if track is not None:
            values = (sound * 32_768).round().to(torch.int16).numpy()
            for start in range(0, len(values), 1000):
                part = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(values[None, start : start + 1000]), "s16", "mono"
                )
                part.sample_rate, part.time_base = SOUND_RATE, Fraction(1, SOUND_RATE)
                part.pts = start + round(begins * SOUND_RATE)
                packets += track.encode(part)
            packets += track.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.pts * packet.time_base):
            output.mux(packet)
