"""Plots as SVG inside a page.

Drawn here, not by a plotting library: a page stays some ten kilobytes instead of the megabytes that plotly.js puts into
each file, needs no further package, prints as it is seen, and takes its colours from the page, so that light, dark and
paper each have their own. What a reader may want of a library, values under the pointer and series that can be hidden,
is a page's script of some lines.
"""
