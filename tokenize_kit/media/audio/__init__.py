"""Sound files to float32 tensors ``(C, samples)`` in [-1, 1] and back.

`examine` says which parts a file has and whether all of each is there, one module a family of formats; libsndfile (soundfile)
decodes wav, aiff, au, caf, flac, ogg and mp3, FFmpeg (PyAV) everything else (`decoders`): m4a and aac, G.722, the sound tracks of
mp4, webm, mkv, mov and avi. All sounds pass through `AudioReader`, which decodes block by block, so a file of any length needs
a bounded memory (`stream_audio`), and reading a whole one (`read_audio`) gives the very same samples.

Rules: many channels become one by their mean, two by the weights of Rec. ITU-R BS.775 (`speakers`), one becomes two by a copy; a
wanted sample rate is reached with soxr's high quality (`RESAMPLER`), channels first; samples beyond full scale, which decoders
of lossy formats and resampling make, are clipped and counted. `AudioReader.notes` says in words what was changed. A file
that is shorter than it says of itself is refused; raw streams (G.722) say nothing of their length, so a part of one is a
shorter sound.
"""

from tokenize_kit.media.audio.decoders import BLOCK_SAMPLES
from tokenize_kit.media.audio.raw import self_describing, self_describing_file
from tokenize_kit.media.audio.reader import (
    MAX_CHANNELS,
    MAX_PEAK,
    MAX_SAMPLE_RATE,
    MAX_VALUES,
    RESAMPLER,
    Audio,
    AudioReader,
    conversion_of,
    read_audio,
    read_audio_noting,
    stream_audio,
)
from tokenize_kit.media.audio.writing import check_audio, pour_blocks, to_pcm16, wav_bytes, write_audio, write_blocks

__all__ = [
    "BLOCK_SAMPLES",
    "MAX_CHANNELS",
    "MAX_PEAK",
    "MAX_SAMPLE_RATE",
    "MAX_VALUES",
    "RESAMPLER",
    "Audio",
    "AudioReader",
    "check_audio",
    "conversion_of",
    "pour_blocks",
    "read_audio",
    "read_audio_noting",
    "self_describing",
    "self_describing_file",
    "stream_audio",
    "to_pcm16",
    "wav_bytes",
    "write_audio",
    "write_blocks",
]
