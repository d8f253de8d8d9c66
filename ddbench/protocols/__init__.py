"""How a student learns a synset: protocols as data, plans, targets, training, teachers' labels."""
