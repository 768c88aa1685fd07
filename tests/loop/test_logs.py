"""The log of a run on a disk that is full."""

import errno
import os
import time

import pytest

from trainers.logs import RunLog


def test_a_full_disk_under_tensorboard_is_one_error_with_its_path(tmp_path, capfd):
    log = RunLog(tmp_path, 0)

    def full(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    log._tracker.writer.file_writer.event_writer._async_writer._worker._record_writer.write = full

    def write():
        for step in range(200):
            log.write(step, {"loss": 1.0})
            time.sleep(0.005)

    with pytest.raises(OSError, match="No space left on device; make room") as told:
        write()
    assert told.value.filename == str(tmp_path / "tensorboard")
    assert capfd.readouterr().err == ""
    assert (tmp_path / "train_log.jsonl").read_text().startswith('{"step": 0, "loss": 1.0}\n')
