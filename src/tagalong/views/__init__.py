"""What people look at: tags drawn from a whole address space down to a granule, and differences.

Each view is made of values here and drawn by `cli` (terminal) or by `page` (HTML). A view of a
core of 4 GiB costs what its stored tags cost to read once, and keeps summaries only.

survey      how often each tag occurs, per cell of a range, and per region
granules    the granules around an address, with pointers and blocks to draw in
difference  where data and tags of two cores differ

Private: scripts use `tagalong map --json` and `tagalong diff --json`.
"""
