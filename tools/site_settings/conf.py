"""Sphinx's settings for the site that `make docs` builds; tools/build_site.py stages the pages."""

from __future__ import annotations

project = "mpu"
author = "the mpu authors"
extensions = ["myst_parser"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = "mpu"
html_show_copyright = False
html_copy_source = False
# Nothing is fetched from the network, neither by the build nor by a reader's browser.
html_theme_options = {"top_of_page_buttons": []}
nitpicky = True
