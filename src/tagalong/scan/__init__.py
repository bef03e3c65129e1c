"""Many crashes: each explained, then grouped by what happened where.

patterns -> Item -> CrashRecord -> journal -> CrashGroup -> text, JSON, page

items       what to explain: local files, or what any fsspec URL names
record      what is kept of one explained crash, flat, as a line of JSON
explain_one an item to its records; runs in a helper
helper      a process that explains items, so that none can end the scan
deadline    an end for what waits for a server that says nothing
runner      many helpers, here or in the workers of a Dask cluster
journal     the records so far, on disk: a scan goes on where it stopped
groups      crashes with one signature, ranked, and what they share
parquet     the records as a table (extra: parquet)

Whatever a file does to its helper, the scan goes on: an error is a record, and so is a helper that
ended or took too long.

Private: scripts read what `tagalong scan --out` writes.
"""
