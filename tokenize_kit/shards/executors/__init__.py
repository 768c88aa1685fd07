"""Where the units of a run are encoded. A unit is an idempotent task; an executor only decides where it runs.

`base` says what an executor is and how one is found, `worker` is what runs in a process of its own, whoever started it. The rest
of this folder is one executor a file: `serial`, `processes`, `ray`. A package brings another one with an entry point of the group
``tokenize_kit.executors``.
"""
