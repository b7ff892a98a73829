"""Pages that show results: pictures by matplotlib, pages by jinja2, nothing fetched from anywhere."""
