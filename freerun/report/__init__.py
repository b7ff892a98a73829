"""Reports as HTML pages: plots by matplotlib, templates by jinja2, no external resources."""
