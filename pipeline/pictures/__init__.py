"""The report's pictures, as SVG text that stands in the page."""
