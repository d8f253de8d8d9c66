"""The command line: one small module a verb; nothing heavy is imported before the verb runs."""
