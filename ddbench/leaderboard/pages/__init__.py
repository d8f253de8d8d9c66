"""What shows a board: page, Markdown, terminal, exports."""
