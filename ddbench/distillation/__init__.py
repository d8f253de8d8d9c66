"""A distillation run: settings, folder, loop, resume, recipes."""
