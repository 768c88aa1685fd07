"""What ``inspect`` says of each kind of thing: files of rows, archives, folders of data, runs and weights.

Each file has one function a kind, which returns JSON-ready facts. Where something is damaged they hold what was there before the
damage, and ``damaged`` with the reason.
"""
