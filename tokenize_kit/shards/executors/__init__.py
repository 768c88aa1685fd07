"""Where the units of a run are encoded. A unit is an idempotent task; an executor only decides where it runs."""
