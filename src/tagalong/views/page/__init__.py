"""One self-contained web page: no network, no framework, no code but its own.

elements    HTML of values: every text is escaped on its way in
map_data    tags of a whole address space in a bounded size, for the page's map
document    head, policy, style and script around a body
map_page    the page of `tagalong map`
crash_page  the page of `tagalong explain`

page.css and page.js go into each page as they are. The policy in the page's head names them by
their hashes, so that a browser runs nothing else, whatever a hostile file smuggled into a text.
"""
