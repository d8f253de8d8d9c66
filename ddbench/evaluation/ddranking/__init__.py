"""DD-Ranking's scores: definitions, trainings, result file."""
