"""Where samples come from: files, folders, archives, tables and URLs, listed in one fixed order, planned into units, and read."""
